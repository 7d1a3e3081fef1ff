// The selective scan for GPUs whose copy engine moves boxes of tensors by itself (Hopper).
#pragma once

#include "scan.cuh"

namespace vlm::cuda {

constexpr int kBulkChannels = 40;  // of a block: 10 for each scheduler of a multiprocessor

// Whether tensors lie as the copy engine asks for.
bool scan_is_bulk(const ScanProblem&, const Card&);
void launch_scan_bulk(const ScanProblem&, const Launch&);

}  // namespace vlm::cuda
