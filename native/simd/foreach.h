// Compiles the rest of the including file once for each instruction set; the last pass is the machine's baseline.
//
//   #define SIMD_FILE "ops/rms_norm.cc"
//   #include "simd/foreach.h"
//   #include "simd/vec.h"
//   SIMD_BEGIN
//   namespace vlm::SIMD { … a kernel `void rms_norm(const Step&, Worker&)` … }
//   SIMD_END
//   #if SIMD_ONCE
//   namespace vlm { … prepare_rms_norm … SIMD_KERNELS(rms_norm) }
//   #endif
//
// A file with products of int8 says `#define SIMD_INT8` as well and is compiled for VNNI and Arm's dot products too.
// Everything in front of the #include has an include guard, so a pass repeats only the kernels. The target is set by a
// pragma around them and not by compiler flags, so no inline function of a standard header can be compiled for AVX-512
// and then be picked by the linker for everybody.

#ifndef SIMD_PASS

#include "ops.h"

#define SIMD_PRAGMA(text) _Pragma(#text)
#define SIMD_PRAGMA_OF(...) SIMD_PRAGMA(__VA_ARGS__)

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#elif defined(__aarch64__) || defined(_M_ARM64)
#include <arm_neon.h>
#endif

#if (defined(__x86_64__) || defined(_M_X64)) && !defined(VLM_PORTABLE_ONLY)
#define SIMD_PASS 1
#include SIMD_FILE
#undef SIMD_PASS
#define SIMD_PASS 2
#include SIMD_FILE
#undef SIMD_PASS
#define SIMD_PASS 3
#include SIMD_FILE
#undef SIMD_PASS
#ifdef SIMD_INT8
#define SIMD_PASS 4
#include SIMD_FILE
#undef SIMD_PASS
#define SIMD_WITH_VNNI avx512vnni
#else
#define SIMD_WITH_VNNI avx512
#endif
#define SIMD_KERNELS(op)           \
  Kernel kernel_##op(Isa isa) {    \
    switch (isa) {                 \
      case Isa::avx512bf16:        \
        return avx512bf16::op;     \
      case Isa::avx512vnni:        \
        return SIMD_WITH_VNNI::op; \
      case Isa::avx512:            \
        return avx512::op;         \
      case Isa::avx2:              \
        return avx2::op;           \
      default:                     \
        return baseline::op;       \
    }                              \
  }
#elif (defined(__aarch64__) || defined(_M_ARM64)) && defined(SIMD_INT8) && !defined(VLM_PORTABLE_ONLY)
#define SIMD_PASS 5
#include SIMD_FILE
#undef SIMD_PASS
#define SIMD_KERNELS(op) \
  Kernel kernel_##op(Isa isa) { return isa == Isa::neon_dotprod ? dotprod::op : baseline::op; }
#else
#define SIMD_KERNELS(op) \
  Kernel kernel_##op(Isa) { return baseline::op; }
#endif

#define SIMD_PASS 0
#define SIMD_ONCE 1
#endif

#undef SIMD
#undef SIMD_TARGET
#undef SIMD_BEGIN
#undef SIMD_END
#undef SIMD_AVX2
#undef SIMD_AVX512
#undef SIMD_BF16
#undef SIMD_VNNI
#undef SIMD_NEON
#undef SIMD_DOTPROD
#undef SIMD_SSE2

#if SIMD_PASS == 0
#define SIMD baseline
#if defined(__aarch64__) || defined(_M_ARM64)
#define SIMD_NEON 1
#elif defined(__SSE2__) || defined(_M_X64)
#define SIMD_SSE2 1
#endif
#elif SIMD_PASS == 1
#define SIMD avx2
#define SIMD_AVX2 1
#elif SIMD_PASS == 2
#define SIMD avx512
#define SIMD_AVX512 1
#elif SIMD_PASS == 3
#define SIMD avx512bf16
#define SIMD_AVX512 1
#define SIMD_BF16 1
#define SIMD_VNNI 1
#elif SIMD_PASS == 4
#define SIMD avx512vnni
#define SIMD_AVX512 1
#define SIMD_VNNI 1
#elif SIMD_PASS == 5
#define SIMD dotprod
#define SIMD_NEON 1
#define SIMD_DOTPROD 1
#endif

#if SIMD_PASS == 1
#define SIMD_TARGET "avx2,fma,f16c"
#elif SIMD_PASS == 2
#define SIMD_TARGET "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c"
#elif SIMD_PASS == 3
#define SIMD_TARGET "avx512bf16,avx512vnni,avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c"
#elif SIMD_PASS == 4
#define SIMD_TARGET "avx512vnni,avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c"
#elif SIMD_PASS == 5
#define SIMD_TARGET "arch=armv8.2-a+dotprod"
#endif

#if SIMD_PASS == 0 || (defined(_MSC_VER) && !defined(__clang__))
#define SIMD_BEGIN
#define SIMD_END
#elif defined(__clang__)
#define SIMD_BEGIN SIMD_PRAGMA_OF(clang attribute push(__attribute__((target(SIMD_TARGET))), apply_to = function))
#define SIMD_END SIMD_PRAGMA(clang attribute pop)
#else
#define SIMD_BEGIN SIMD_PRAGMA(GCC push_options) SIMD_PRAGMA_OF(GCC target(SIMD_TARGET))
#define SIMD_END SIMD_PRAGMA(GCC pop_options)
#endif
