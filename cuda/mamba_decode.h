// A run of decode layers as one kernel.
#pragma once

#include <memory>

#include "fuse.h"

namespace vlm::cuda {

class MambaDecode {
 public:
  virtual ~MambaDecode() = default;
  // Null for layers or a card that the kernel is not made for.
  static std::unique_ptr<MambaDecode> make(const DecodeRun&, const Card&);

  // What is in the kernel's own device memory before its first launch.
  virtual std::vector<std::byte> contents() const = 0;
  virtual void launch(std::byte* memory, const Launch&) const = 0;
};

}  // namespace vlm::cuda
