#include "cuda_loader.h"

#include <cstdlib>
#include <mutex>

#include "../cuda/library.h"
#include "check.h"

#ifdef _WIN32
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace vlm {
namespace {

// A shared library that stays open: its threads and our devices may outlive any scope.
class Library {
 public:
  explicit Library(const char* path) {
#ifdef _WIN32
    handle_ = LoadLibraryA(path);
    if (!handle_) error_ = text("error ", GetLastError());
#else
    handle_ = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle_) error_ = dlerror();
#endif
  }
  explicit operator bool() const { return handle_ != nullptr; }
  const std::string& error() const { return error_; }

  // Null when there is none.
  template <class F>
  F* find(const char* name) const {
#ifdef _WIN32
    return reinterpret_cast<F*>(GetProcAddress(handle_, name));
#else
    return reinterpret_cast<F*>(dlsym(handle_, name));
#endif
  }

 private:
#ifdef _WIN32
  HMODULE handle_ = nullptr;
#else
  void* handle_ = nullptr;
#endif
  std::string error_;
};

#ifdef _WIN32
constexpr const char *kDriver = "nvcuda.dll", *kOurs = "vl_mamba_cuda.dll";
constexpr char kSlash = '\\';
#else
constexpr const char *kDriver = "libcuda.so.1", *kOurs = "libvl_mamba_cuda.so";
constexpr char kSlash = '/';
#endif

// The static runtime in our library is CUDA 13's and needs a driver that knows CUDA 13.0.
constexpr int kNeedsDriver = 13000;

std::string version_text(int version) { return text(version / 1000, ".", version % 1000 / 10); }

// Our library lies beside the addon, unless VL_MAMBA_CUDA_LIBRARY says where it is.
std::string library_path() {
  if (const char* path = std::getenv("VL_MAMBA_CUDA_LIBRARY")) return path;
  std::string self;
#ifdef _WIN32
  HMODULE module = nullptr;
  char path[MAX_PATH] = "";
  GetModuleHandleExA(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT,
                     reinterpret_cast<LPCSTR>(&library_path), &module);
  GetModuleFileNameA(module, path, sizeof path);
  self = path;
#else
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&library_path), &info) && info.dli_fname) self = info.dli_fname;
#endif
  return self.substr(0, self.rfind(kSlash) + 1) + kOurs;
}

struct Found {
  CudaSurvey survey;
  cuda::OpenFunction* open = nullptr;
};

// The driver's API, as far as finding cards goes (CUDA Driver API reference, §6.2–6.5).
struct Driver {
  using Result = int;
  Result (*init)(unsigned flags);
  Result (*version)(int*);
  Result (*count)(int*);
  Result (*device)(int*, int ordinal);
  Result (*name)(char*, int length, int device);
  Result (*attribute)(int*, int which, int device);
  Result (*memory)(size_t*, int device);

  explicit Driver(const Library& library) {
    const auto find = [&](auto*& function, const char* symbol) {
      function = library.find<std::remove_pointer_t<std::remove_reference_t<decltype(function)>>>(symbol);
      complete = complete && function;
    };
    find(init, "cuInit");
    find(version, "cuDriverGetVersion");
    find(count, "cuDeviceGetCount");
    find(device, "cuDeviceGet");
    find(name, "cuDeviceGetName");
    find(attribute, "cuDeviceGetAttribute");
    find(memory, "cuDeviceTotalMem_v2");
  }
  bool complete = true;
};
constexpr int kMajor = 75, kMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_…

std::string init_reason(int result) {
  constexpr int kNoDevice = 100, kMismatch = 803, kCompatMode = 804;
  if (result == kNoDevice)
    return "the NVIDIA driver shows no GPU (is CUDA_VISIBLE_DEVICES set, or the container started without GPUs?)";
  if (result == kMismatch)
    return "the NVIDIA driver's kernel module and its library are of different versions (restart after a driver "
           "update)";
  if (result == kCompatMode) return "the NVIDIA driver is too old for this GPU's compatibility mode: update it";
  return text("the NVIDIA driver does not start (cuInit returned ", result, ")");
}

// Machine code runs on later minor versions of its major one, and of the last image there is PTX for what comes later.
bool runs_on(const int* images, int count, int arch) {
  for (int i = 0; i < count; i++)
    if (images[i] / 10 == arch / 10 && images[i] <= arch) return true;
  return arch > images[count - 1];
}

std::string image_list(const int* images, int count) {
  std::string list;
  for (int i = 0; i < count; i++) list += text(i ? ", " : "", images[i] / 10, ".", images[i] % 10);
  return list;
}

Found look() {
  Found found;
  CudaSurvey& survey = found.survey;
  const auto none = [&](std::string reason) {
    survey.reason = std::move(reason);
    return found;
  };
#ifdef __APPLE__
  return none("there is no CUDA on macOS");
#else
  const Library driver_library(kDriver);
  if (!driver_library) return none(text("no NVIDIA driver is installed (", kDriver, " was not found)"));
  const Driver driver(driver_library);
  if (!driver.complete) return none(text(kDriver, " is not a driver that this version of vl-mamba knows"));
  int version = 0;
  if (driver.version(&version) == 0) survey.driver = version_text(version);
  if (version < kNeedsDriver)
    return none(text("the NVIDIA driver knows CUDA ", version_text(version), ", and ", version_text(kNeedsDriver),
                     " or later is needed: update it to 580 or later"));
  if (const int result = driver.init(0)) return none(init_reason(result));
  int count = 0;
  if (const int result = driver.count(&count)) return none(init_reason(result));
  if (count == 0) return none(init_reason(100));

  const std::string path = library_path();
  const Library ours(path.c_str());
  if (!ours) return none(text("the CUDA library of vl-mamba can't be loaded: ", ours.error()));
  auto* const ours_version = ours.find<cuda::VersionFunction>("vlm_cuda_version");
  auto* const images_of = ours.find<cuda::ImagesFunction>("vlm_cuda_images");
  found.open = ours.find<cuda::OpenFunction>("vlm_cuda_open");
  if (!ours_version || !images_of || !found.open || ours_version() != cuda::kLibraryVersion) {
    found.open = nullptr;
    return none(text(path, " belongs to another version of vl-mamba"));
  }
  int image_count = 0;
  const int* images = images_of(&image_count);
  for (int i = 0; i < count; i++) {
    CudaCard card{i, "", 0, 0, ""};
    int device = 0, major = 0, minor = 0;
    char name[256] = "";
    size_t memory = 0;
    if (driver.device(&device, i) || driver.name(name, sizeof name - 1, device) ||
        driver.attribute(&major, kMajor, device) || driver.attribute(&minor, kMinor, device) ||
        driver.memory(&memory, device))
      card.reason = "the driver does not describe it";
    card.name = name;
    card.arch = 10 * major + minor;
    card.memory = static_cast<int64_t>(memory);
    if (card.reason.empty() && !runs_on(images, image_count, card.arch))
      card.reason = text("it has compute capability ", major, ".", minor, ", and this library has kernels for ",
                         image_list(images, image_count));
    survey.cards.push_back(card);
  }
  return found;
#endif
}

const Found& looked() {
  static const Found found = look();
  return found;
}

}  // namespace

const CudaSurvey& cuda_survey() { return looked().survey; }

std::unique_ptr<Backend> open_cuda(int ordinal, bool graphs, Failure& failure) {
  const CudaSurvey& survey = cuda_survey();
  std::string reason = survey.reason;
  const int count = static_cast<int>(survey.cards.size());
  if (reason.empty() && ordinal >= count)
    reason = text("there is no GPU number ", ordinal, ": the driver shows ", count);
  else if (reason.empty())
    reason = survey.cards[ordinal].reason;
  if (reason.empty()) {
    if (Backend* backend = looked().open(ordinal, graphs)) return std::unique_ptr<Backend>(backend);
    reason = "no memory left";
  }
  failure.set("ERR_CUDA_UNAVAILABLE", reason.c_str());
  return nullptr;
}

}  // namespace vlm
