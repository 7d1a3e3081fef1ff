// native_test [WORDS…]: runs the tests whose name holds one of the words, or all.
#include <cstdio>

#include "kit.h"

namespace vlm::test {

static int failures = 0;

std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

void fail(const char* file, int line, const std::string& what) {
  failures++;
  std::fprintf(stderr, "%s:%d: %s\n", file, line, what.c_str());
}

Caller::Caller(int threads) {
  device = std::make_shared<Device>(open_cpu(threads), [inbox = inbox_](std::unique_ptr<Job> job) {
    std::lock_guard lock(inbox->lock);
    inbox->done.push(std::move(job));
    inbox->came.notify_one();
  });
}

Failure Caller::call(std::function<bool(Job&)> work, std::shared_ptr<Token> token) {
  auto job = std::make_unique<Job>();
  if (token) job->token = std::move(token);
  job->work = std::move(work);
  device->post(std::move(job));
  std::unique_lock lock(inbox_->lock);
  inbox_->came.wait(lock, [&] { return !inbox_->done.empty(); });
  const auto done = inbox_->done.pop();
  if (done->ok) return {};
  if (!done->failure.code[0]) done->failure.set("", "failed without a code");
  return done->failure;
}

}  // namespace vlm::test

int main(int argc, char** argv) {
  using namespace vlm::test;
  int total = 0, passed = 0;
  for (const Test& test : tests()) {
    bool wanted = argc < 2;
    for (int i = 1; i < argc; i++) wanted = wanted || std::strstr(test.name, argv[i]);
    if (!wanted) continue;
    const int before = failures;
    test.run();
    total++;
    passed += failures == before;
    std::printf("%s %s\n", failures == before ? "ok  " : "FAIL", test.name);
    std::fflush(stdout);
  }
  std::printf("%d of %d native tests passed\n", passed, total);
  return passed == total && total > 0 ? 0 : 1;
}
