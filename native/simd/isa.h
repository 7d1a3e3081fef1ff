// The instruction sets that kernels are compiled for, and the one this machine runs.
#pragma once

namespace vlm {

enum class Isa { portable, avx2, avx512, avx512bf16, neon };

// The best one this processor has; VL_MAMBA_ISA=portable|avx2|avx512 in the environment lowers it (for tests).
Isa detect_isa();
const char* isa_name(Isa);

}  // namespace vlm
