// The selective scan for GPUs whose copy engine moves boxes of tensors by itself (Hopper).
#pragma once

#include "scan.cuh"

namespace vlm::cuda {

// Launches the scan, or returns false where another kernel must, or is faster.
bool launch_scan_bulk(const ScanProblem&, const Launch&);

}  // namespace vlm::cuda
