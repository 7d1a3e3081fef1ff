// An NVIDIA driver for machines without one: the entry points that native/cuda_loader.cc calls, answering as told by
//   MOCK_DRIVER_VERSION  13000 unless given      MOCK_DRIVER_INIT  what cuInit returns, 0 unless given
//   MOCK_DRIVER_CARDS    "90:NVIDIA H200;75:Tesla T4"
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

int number(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value ? std::atoi(value) : otherwise;
}

struct Card {
  int arch;
  std::string name;
};

std::vector<Card> cards() {
  std::vector<Card> list;
  const char* value = std::getenv("MOCK_DRIVER_CARDS");
  std::string rest = value ? value : "";
  while (!rest.empty()) {
    const size_t end = std::min(rest.find(';'), rest.size()), colon = rest.find(':');
    list.push_back({std::atoi(rest.c_str()), rest.substr(colon + 1, end - colon - 1)});
    rest.erase(0, end + 1);
  }
  return list;
}

}  // namespace

extern "C" {
int cuDriverGetVersion(int* version) {
  *version = number("MOCK_DRIVER_VERSION", 13000);
  return 0;
}
int cuInit(unsigned) { return number("MOCK_DRIVER_INIT", 0); }
int cuDeviceGetCount(int* count) {
  *count = static_cast<int>(cards().size());
  return 0;
}
int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return 0;
}
int cuDeviceGetName(char* name, int length, int device) {
  std::strncpy(name, cards()[device].name.c_str(), length);
  return 0;
}
int cuDeviceGetAttribute(int* value, int which, int device) {
  const int arch = cards()[device].arch;
  *value = which == 75 ? arch / 10 : arch % 10;
  return 0;
}
int cuDeviceTotalMem_v2(size_t* bytes, int) {
  *bytes = size_t{16} << 30;
  return 0;
}
}
