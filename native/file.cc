#include "file.h"

#include "check.h"

#ifdef _WIN32
#define NOMINMAX
#include <windows.h>
#else
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#endif

namespace vlm {

#ifdef _WIN32

namespace {
[[noreturn]] void fail(const char* code, const std::string& path) {
  throw Error(code, text(path, ": Windows error ", GetLastError()));
}
}  // namespace

File::File(const std::string& path) : path_(path) {
  std::wstring wide(MultiByteToWideChar(CP_UTF8, 0, path.c_str(), -1, nullptr, 0), L'\0');
  MultiByteToWideChar(CP_UTF8, 0, path.c_str(), -1, wide.data(), static_cast<int>(wide.size()));
  handle_ = CreateFileW(wide.c_str(), GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, nullptr, OPEN_EXISTING,
                        FILE_FLAG_SEQUENTIAL_SCAN, nullptr);
  if (handle_ == INVALID_HANDLE_VALUE) fail("ERR_ST_OPEN", path_);
}
File::~File() { CloseHandle(handle_); }

// Node reports dev and ino from other calls, so only the size is compared here: the rest stays 0.
FileIdentity File::identity() const {
  LARGE_INTEGER size;
  if (!GetFileSizeEx(handle_, &size)) fail("ERR_ST_READ", path_);
  return {0, 0, size.QuadPart, 0};
}

size_t File::read(void* to, size_t bytes, int64_t offset) const {
  OVERLAPPED at{};
  at.Offset = static_cast<DWORD>(offset);
  at.OffsetHigh = static_cast<DWORD>(offset >> 32);
  DWORD got = 0;
  if (!ReadFile(handle_, to, static_cast<DWORD>(bytes), &got, &at) && GetLastError() != ERROR_HANDLE_EOF)
    fail("ERR_ST_READ", path_);
  return got;
}

#else

namespace {
[[noreturn]] void fail(const char* code, const std::string& path) {
  throw Error(code, text(path, ": ", std::strerror(errno)));
}
}  // namespace

// O_NONBLOCK: opening a named pipe must not wait for a writer.
File::File(const std::string& path) : path_(path), fd_(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)) {
  if (fd_ < 0) fail("ERR_ST_OPEN", path_);
}
File::~File() { close(fd_); }

FileIdentity File::identity() const {
  struct stat s;
  if (fstat(fd_, &s) != 0) fail("ERR_ST_READ", path_);
#ifdef __APPLE__
  const auto& modified = s.st_mtimespec;
#else
  const auto& modified = s.st_mtim;
#endif
  return {static_cast<int64_t>(s.st_dev), static_cast<int64_t>(s.st_ino), static_cast<int64_t>(s.st_size),
          static_cast<int64_t>(modified.tv_sec) * 1'000'000'000 + modified.tv_nsec};
}

size_t File::read(void* to, size_t bytes, int64_t offset) const {
  size_t done = 0;
  while (done < bytes) {
    const ssize_t n = pread(fd_, static_cast<char*>(to) + done, bytes - done, offset + static_cast<int64_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("ERR_ST_READ", path_);
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  return done;
}

#endif

}  // namespace vlm
