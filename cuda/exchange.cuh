// How blocks that run at the same time hand each other values: a word of a value and a number that tells which round it
// belongs to, stored and loaded as one, so that whoever finds the number has the value too and nobody meets anybody.
#pragma once

#include "common.cuh"

namespace vlm::cuda {

struct Word {
  uint32_t value, round;
};

__device__ __forceinline__ void send(Word* to, uint32_t value, uint32_t round) {
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(to), "l"(static_cast<uint64_t>(round) << 32 | value)
               : "memory");
}

struct alignas(16) WordPair {
  Word a, b;
};

// Not before receive() has a pair its words been looked at.
__device__ __forceinline__ WordPair look(const WordPair* from) {
  uint64_t a, b;
  asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];" : "=l"(a), "=l"(b) : "l"(from) : "memory");
  return {{static_cast<uint32_t>(a), static_cast<uint32_t>(a >> 32)},
          {static_cast<uint32_t>(b), static_cast<uint32_t>(b >> 32)}};
}
__device__ __forceinline__ void receive(const WordPair* from, WordPair& pair, uint32_t round) {
  while (pair.a.round != round || pair.b.round != round) pair = look(from);
}

}  // namespace vlm::cuda
