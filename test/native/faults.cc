// What fails in the system fails in the call that needed it, and nowhere else. Every allocation, mapping, open, stat, read and
// thread start fails at its Nth time, N = 1, 2, … until the call gets through, once alone and once with all later ones; after
// each the device has to work as before, and at the end nothing may have leaked (SQLite's method, sqlite.org/testing.html §3).
#include <cerrno>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <system_error>
#include <thread>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file.h"
#include "kit.h"
#include "load.h"

namespace {

// 0: nothing fails.
std::atomic<long> countdown{0};
std::atomic<bool> persistent{false}, fired{false}, short_reads{false};

bool fails() {
  long left = countdown.load();
  while (left > 0 && !countdown.compare_exchange_weak(left, left > 1 ? left - 1 : persistent ? 1 : 0)) {
  }
  if (left != 1) return false;
  fired = true;
  return true;
}

}  // namespace

void* operator new(size_t bytes) {
  void* memory = fails() ? nullptr : std::malloc(bytes ? bytes : 1);
  if (!memory) throw std::bad_alloc();
  return memory;
}
void* operator new[](size_t bytes) { return operator new(bytes); }
void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  return fails() ? nullptr : std::malloc(bytes ? bytes : 1);
}
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }

// The linker sends the core's calls here (--wrap in CMakeLists.txt).
extern "C" {
void* __real_mmap(void*, size_t, int, int, int, off_t);
void* __wrap_mmap(void* at, size_t bytes, int protection, int flags, int fd, off_t offset) {
  return fails() ? MAP_FAILED : __real_mmap(at, bytes, protection, flags, fd, offset);
}
int __real_open(const char*, int, ...);
int __wrap_open(const char* path, int flags, ...) {
  if (!fails()) return __real_open(path, flags);
  errno = EMFILE;
  return -1;
}
int __real_fstat(int, struct stat*);
int __wrap_fstat(int fd, struct stat* out) {
  if (!fails()) return __real_fstat(fd, out);
  errno = EIO;
  return -1;
}
ssize_t __real_pread(int, void*, size_t, off_t);
ssize_t __wrap_pread(int fd, void* to, size_t bytes, off_t offset) {
  if (short_reads && bytes > 1) bytes = bytes / 2;
  if (!fails()) return __real_pread(fd, to, bytes, offset);
  errno = EIO;
  return -1;
}
// std::thread's start.
#define THREAD_START _ZNSt6thread15_M_start_threadESt10unique_ptrINS_6_StateESt14default_deleteIS1_EEPFvvE
#define PASTE(a, b) a##b
#define NAME(prefix, name) PASTE(prefix, name)
void NAME(__real_, THREAD_START)(std::thread*, void*, void (*)());
void NAME(__wrap_, THREAD_START)(std::thread* self, void* state, void (*depend)()) {
  if (fails()) throw std::system_error(EAGAIN, std::generic_category());
  NAME(__real_, THREAD_START)(self, state, depend);
}
}

namespace vlm::test {
namespace {

struct Fixture {
  std::string path;
  FileIdentity identity;
  std::vector<float> data = std::vector<float>(5000);

  Fixture() {
    char name[] = "/tmp/vl-mamba-faults-XXXXXX";
    const int fd = mkstemp(name);
    path = name;
    for (size_t i = 0; i < data.size(); i++) data[i] = std::sin(static_cast<float>(i));
    const size_t bytes = data.size() * sizeof(float);
    EXPECT(write(fd, data.data(), bytes) == static_cast<ssize_t>(bytes), "cannot write ", path);
    close(fd);
    identity = File(path).identity();
  }
  ~Fixture() { unlink(path.c_str()); }
};

// ids → rows of a table that is read from a file; id 9 has no row.
std::vector<int32_t> lookup_words() {
  Words w;
  w.values = {64 * 4, 64 * 500 * 4};
  w.buffers = 1;
  w.tensors = {{0, 3, {1, 64}}, {-1, 0, {9, 500}}, {1, 0, {1, 64, 500}}};
  w.inputs = {0};
  w.outputs = {2};
  w.steps = {{op_id("embedding"), {0, 1, -1, -1, 2}, {}}};
  return w.encode();
}

struct Result {
  Failure failure;
  bool right = false;
};

// Loads the table, halved on its way to memory and back, compiles the program and runs it.
Result use(Caller& caller, const Fixture& file, const std::vector<int32_t>& words, int32_t id) {
  Result result;
  try {
    std::shared_ptr<Buffer> table;
    std::shared_ptr<Executable> program;
    std::vector<int32_t> ids(64, id);
    std::vector<float> rows(64 * 500);
    const auto device = caller.device;
    const auto step = [&](std::function<bool(Job&)> work) {
      if (!result.failure.code[0]) result.failure = caller.call(std::move(work));
    };
    step([&](Job& job) {
      table = device->alloc(9 * 500 * 4 + 600 + 2 * 8192 + 64, job.failure);
      return table != nullptr;
    });
    step([&](Job& job) {
      const std::vector<Segment> segments = {
          {0, 2000, Dtype::f32, Dtype::f32, Transform::none, table, 0},
          {8000, 2500, Dtype::f32, Dtype::f32, Transform::neg_exp, table, 8000},
          {0, 500, Dtype::f32, Dtype::i8, Transform::none, table, 18000, Rule::any, 500, 18512, 0},
          {0, 1500, Dtype::f32, Dtype::i8, Transform::none, table, 18624, Rule::any, 500, 18512, 0, true, 0}};
      load_file(device->backend(), file.path, file.identity, segments, 2, *job.token);
      return true;
    });
    step([&](Job& job) {
      program = std::make_shared<Executable>(device, Program::decode(words.data(), words.size(), {table}));
      return program->prepare(job.failure);
    });
    step([&](Job& job) {
      return program->run({ids.data()}, {rows.data()}, job.token->cancelled, nullptr, job.failure);
    });
    result.right = !result.failure.code[0] && rows[63 * 500 + 7] == file.data[id * 500 + 7];
  } catch (const std::bad_alloc&) {
    result.failure.set("ERR_OUT_OF_MEMORY", "");
  } catch (const std::system_error&) {
    result.failure.set("ERR_THREAD", "");
  }
  return result;
}

bool known(const Failure& failure) {
  for (const char* code : {"ERR_OUT_OF_MEMORY", "ERR_THREAD", "ERR_ST_OPEN", "ERR_ST_READ", "ERR_OP_INDEX"})
    if (std::strcmp(failure.code, code) == 0) return true;
  return false;
}

// Calls `attempt` with the Nth fault for every N; returns how many there were.
template <class Attempt>
long every_fault(bool all_later, Attempt attempt) {
  for (long n = 1;; n++) {
    persistent = all_later;
    fired = false;
    countdown = n;
    const Result result = attempt();
    countdown = 0;
    if (!fired) return n - 1;
    attempt.check(result, n);
  }
}

struct OnOneDevice {
  Caller& caller;
  const Fixture& file;
  const std::vector<int32_t>& words;
  int32_t id;

  Result operator()() const { return use(caller, file, words, id); }
  void check(const Result& result, long n) const {
    EXPECT(result.right || known(result.failure), "fault ", n, ": ", result.failure.code, " ", result.failure.message);
    const Result after = use(caller, file, words, 2);
    EXPECT(after.right, "after fault ", n, ": ", after.failure.code, " ", after.failure.message);
  }
};

TEST(every_fault_fails_its_call_and_leaves_the_device_usable) {
  const Fixture file;
  const auto words = lookup_words();
  long sites = 0;
  for (const int32_t id : {3, 9})  // 9: the error's own message has to be made, too
    for (const bool all_later : {false, true}) {
      Caller caller(2);
      EXPECT(use(caller, file, words, 3).right, "without a fault");
      sites += every_fault(all_later, OnOneDevice{caller, file, words, id});
    }
  std::printf("     %ld faults\n", sites);
  EXPECT(sites > 100, sites, " faults");
}

struct WithOpening {
  const Fixture& file;
  const std::vector<int32_t>& words;

  Result operator()() const {
    Result result;
    try {
      Caller caller(3);
      result = use(caller, file, words, 1);
    } catch (const std::bad_alloc&) {
      result.failure.set("ERR_OUT_OF_MEMORY", "");
    } catch (const std::system_error&) {
      result.failure.set("ERR_THREAD", "");
    }
    return result;
  }
  void check(const Result& result, long n) const {
    EXPECT(result.right || known(result.failure), "fault ", n, ": ", result.failure.code, " ", result.failure.message);
  }
};

TEST(every_fault_while_a_device_opens_and_ends) {
  const Fixture file;
  const auto words = lookup_words();
  long sites = 0;
  for (const bool all_later : {false, true}) sites += every_fault(all_later, WithOpening{file, words});
  std::printf("     %ld faults\n", sites);
  EXPECT(sites > 50, sites, " faults");
}

TEST(short_reads_are_read_on) {
  const Fixture file;
  Caller caller(2);
  short_reads = true;
  EXPECT(use(caller, file, lookup_words(), 3).right, "with short reads");
  short_reads = false;
}

}  // namespace
}  // namespace vlm::test
