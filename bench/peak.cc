// What this machine can do, for the line above a table: multiply-adds in f32, bf16 and int8 that never leave the registers,
// and reading memory that no cache holds. Built and run by peak.ts; prints {"f32":…,"bf16":…,"int8":…,"read":…} in 10⁹
// operations and GB a second.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
typedef float V __attribute__((vector_size(kBytes)));
constexpr int kSums =
    12;  // independent sums: more than latency × units, and with two operands no more than 16 registers

// Neither known before nor unused after.
template <class T>
void hide(T& value) {
  asm volatile("" : "+m"(value));
}

// Seconds from the first thread's start to the last one's end; the best of some rounds.
template <class F>
double seconds(int threads, F f) {
  double best = 1e9;
  for (int round = 0; round < 5; round++) {
    std::atomic<int> waiting{threads};
    std::vector<std::thread> all;
    std::vector<double> begin(threads), end(threads);
    const auto now = [] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    };
    for (int i = 0; i < threads; i++)
      all.emplace_back([&, i] {
        for (waiting--; waiting > 0;) std::this_thread::yield();
        begin[i] = now();
        f(i);
        end[i] = now();
      });
    double first = 1e18, last = 0;
    for (int i = 0; i < threads; i++) {
      all[i].join();
      first = begin[i] < first ? begin[i] : first;
      last = end[i] > last ? end[i] : last;
    }
    best = last - first < best ? last - first : best;
  }
  return best;
}

constexpr long kSteps = 5'000'000;

void multiply_f32(int) {
  V sums[kSums], x = V{} + 0.5f, y = x;
  for (V& s : sums) s = x;
  hide(x);
  hide(y);
  hide(sums);
  for (long i = 0; i < kSteps; i++) {
#pragma GCC unroll 12
    for (int j = 0; j < kSums; j++) sums[j] = sums[j] * x + y;
  }
  hide(sums);
}

#ifdef __AVX512BF16__
void multiply_bf16(int) {
  __m512 sums[kSums];
  for (__m512& s : sums) s = _mm512_set1_ps(0.5f);
  __m512bh x = _mm512_cvtne2ps_pbh(sums[0], sums[0]);
  hide(x);
  for (long i = 0; i < kSteps; i++) {
#pragma GCC unroll 12
    for (int j = 0; j < kSums; j++) sums[j] = _mm512_dpbf16_ps(sums[j], x, x);
  }
  hide(sums);
}
#endif

#ifdef __AVX512VNNI__
void multiply_int8(int) {
  __m512i sums[kSums], x = _mm512_set1_epi8(1);
  for (__m512i& s : sums) s = x;
  hide(x);
  for (long i = 0; i < kSteps; i++) {
#pragma GCC unroll 12
    for (int j = 0; j < kSums; j++) sums[j] = _mm512_dpbusd_epi32(sums[j], x, x);
  }
  hide(sums);
}
#endif

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const double f32 = 2.0 * threads * kSteps * kSums * (kBytes / 4) / seconds(threads, multiply_f32) / 1e9;
  double bf16 = 0, int8 = 0;
#ifdef __AVX512BF16__
  bf16 = 2.0 * threads * kSteps * kSums * 32 / seconds(threads, multiply_bf16) / 1e9;
#endif
#ifdef __AVX512VNNI__
  int8 = 2.0 * threads * kSteps * kSums * 64 / seconds(threads, multiply_int8) / 1e9;
#endif
  const size_t vectors = (size_t{512} << 20) / kBytes, part = vectors / threads / 8 * 8;
  V* data = static_cast<V*>(std::aligned_alloc(64, vectors * kBytes));
  if (!data) return 1;
  std::memset(static_cast<void*>(data), 1, vectors * kBytes);
  const double read = seconds(threads, [&](int t) {
    V sums[8] = {};
    const V* p = data + part * t;
    for (size_t i = 0; i < part; i += 8) {
      for (int j = 0; j < 8; j += 64 / kBytes) __builtin_prefetch(p + i + j + 4096 / kBytes, 0, 2);
#pragma GCC unroll 8
      for (int j = 0; j < 8; j++) sums[j] += p[i + j];
    }
    hide(sums);
  });
  std::printf("{\"f32\":%.0f,\"bf16\":%.0f,\"int8\":%.0f,\"read\":%.1f}\n", f32, bf16, int8,
              part * threads * kBytes / read / 1e9);
  std::free(data);
}
