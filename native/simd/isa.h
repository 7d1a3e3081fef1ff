// The instruction sets that kernels are compiled for, and the one this machine runs.
#pragma once

#include <span>

namespace vlm {

enum class Isa { portable, avx2, avx512, avx512vnni, avx512bf16, neon, neon_dotprod };

// The best one this processor has; VL_MAMBA_ISA=portable|avx2|avx512|avx512vnni|neon in the environment lowers it (for
// tests).
Isa detect_isa();
// Those that a processor with this one has besides, lowest first.
std::span<const Isa> lower_isas(Isa);
const char* isa_name(Isa);

}  // namespace vlm
