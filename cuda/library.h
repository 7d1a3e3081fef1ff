// What the CUDA library exports, and the addon looks for in it. Both are built from one tree: the version changes with
// anything they share (native/backend.h, native/step.h, native/ops.def).
#pragma once

namespace vlm {
class Backend;
}

namespace vlm::cuda {

constexpr int kLibraryVersion = 3;

// Returns kLibraryVersion.
using VersionFunction = int();
// The compute capabilities, 10 · major + minor, that the library has machine code for; the last one also as PTX.
using ImagesFunction = const int*(int* count);
// A GPU by its number among those that the driver shows; graphs: whether programs are captured. Null without memory.
using OpenFunction = Backend*(int ordinal, int graphs);

}  // namespace vlm::cuda

#ifdef _WIN32
#define VLM_EXPORT __declspec(dllexport)
#else
#define VLM_EXPORT __attribute__((visibility("default")))
#endif
