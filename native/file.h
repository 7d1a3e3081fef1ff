// A file opened for reading at given places, and what the system says it is.
#pragma once

#include <cstddef>
#include <string>

#include "load.h"

namespace vlm {

class File {
 public:
  // Both throw Error: ERR_ST_OPEN, ERR_ST_READ.
  explicit File(const std::string& path);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  FileIdentity identity() const;
  // Reads up to `bytes` at `offset`; less only at the end of the file.
  size_t read(void* to, size_t bytes, int64_t offset) const;

 private:
  std::string path_;
#ifdef _WIN32
  void* handle_;
#else
  int fd_;
#endif
};

}  // namespace vlm
