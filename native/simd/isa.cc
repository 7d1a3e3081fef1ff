#include "simd/isa.h"

#include <cstdlib>
#include <cstring>

#if defined(__x86_64__) || defined(_M_X64)
#define VLM_X86 1
#ifdef _MSC_VER
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#elif defined(__aarch64__) || defined(_M_ARM64)
#define VLM_ARM64 1
#if defined(__linux__)
#include <sys/auxv.h>
#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1 << 20)
#endif
#elif defined(_WIN32)
#include <windows.h>
#endif
#endif

namespace vlm {
namespace {

#ifdef VLM_X86
struct Cpuid {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Cpuid cpuid(unsigned leaf, unsigned subleaf) {
  Cpuid r;
#ifdef _MSC_VER
  int regs[4];
  __cpuidex(regs, static_cast<int>(leaf), static_cast<int>(subleaf));
  r = {unsigned(regs[0]), unsigned(regs[1]), unsigned(regs[2]), unsigned(regs[3])};
#else
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
#endif
  return r;
}

// The registers the operating system saves: bits 1-2 are xmm and ymm, 5-7 the AVX-512 state.
unsigned long long saved_registers() {
#ifdef _MSC_VER
  return _xgetbv(0);
#else
  unsigned lo, hi;
  __asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (static_cast<unsigned long long>(hi) << 32) | lo;
#endif
}

Isa best() {
  auto bit = [](unsigned reg, int n) { return (reg >> n & 1) != 0; };
  const Cpuid one = cpuid(1, 0);
  const bool osxsave = bit(one.ecx, 27), fma = bit(one.ecx, 12), f16c = bit(one.ecx, 29);
  if (!osxsave || !fma || !f16c) return Isa::portable;
  const auto saved = saved_registers();
  const Cpuid seven = cpuid(7, 0);
  if ((saved & 0x6) != 0x6 || !bit(seven.ebx, 5)) return Isa::portable;
  const bool avx512 = (saved & 0xe6) == 0xe6 && bit(seven.ebx, 16) && bit(seven.ebx, 17) && bit(seven.ebx, 30) &&
                      bit(seven.ebx, 31);  // F, DQ, BW, VL
  if (!avx512) return Isa::avx2;
  if (!bit(seven.ecx, 11)) return Isa::avx512;  // VNNI
  return seven.eax >= 1 && bit(cpuid(7, 1).eax, 5) ? Isa::avx512bf16 : Isa::avx512vnni;
}
#elif defined(VLM_ARM64)
Isa best() {
#if defined(__linux__)
  return getauxval(AT_HWCAP) & HWCAP_ASIMDDP ? Isa::neon_dotprod : Isa::neon;
#elif defined(__APPLE__)
  return Isa::neon_dotprod;  // since the first of them
#elif defined(_WIN32)
  return IsProcessorFeaturePresent(PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE) ? Isa::neon_dotprod : Isa::neon;
#else
  return Isa::neon;
#endif
}
#else
Isa best() { return Isa::portable; }
#endif

}  // namespace

Isa detect_isa() {
  static const Isa isa = [] {
    const Isa have = best();
    const char* want = std::getenv("VL_MAMBA_ISA");
    if (want)
      for (Isa lower : lower_isas(have))
        if (!std::strcmp(want, isa_name(lower))) return lower;
    return have;
  }();
  return isa;
}

std::span<const Isa> lower_isas(Isa have) {
  static constexpr Isa x86[] = {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512vnni}, arm[] = {Isa::neon};
  if (have >= Isa::neon) return {arm, have > Isa::neon ? size_t{1} : 0};
  return {x86, static_cast<size_t>(have)};
}

const char* isa_name(Isa isa) {
  static constexpr const char* names[] = {"portable",   "avx2", "avx512",      "avx512vnni",
                                          "avx512bf16", "neon", "neon_dotprod"};
  return names[static_cast<int>(isa)];
}

}  // namespace vlm
