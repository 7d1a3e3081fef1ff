// y[b,l,:] = weight[id,:] where id = ids[b,l] >= 0, and rows[-1-id,:] where it is negative
// ids: [b,l] i32    weight: [v,d] f32 | f16 | bf16 | i8, or i8 in lines [⌈v/16⌉,⌈d/4⌉,64]    y: [b,l,d] f32
// scale: [v,⌈d/128⌉] f32, with i8: that of 128 numbers
// rows: [r,d] f32, vectors that stand for no word: a picture's
#define SIMD_FILE "ops/embedding.cc"
#include <cstring>

#include "ops/rows.h"
#include "simd/foreach.h"
#include "simd/vec.h"

SIMD_BEGIN
namespace vlm::SIMD {

// Widens a row of 16-bit floats. The last, partial vector goes through a full one.
template <class Load>
SIMD_INLINE void widen(float* out, const uint16_t* in, int64_t d, Load load_half) {
  int64_t j = 0;
  for (; j + F::N <= d; j += F::N) store(out + j, load_half(in + j));
  if (j == d) return;
  uint16_t last[F::N] = {};
  std::memcpy(last, in + j, (d - j) * sizeof *last);
  store(out + j, load_half(last), static_cast<int>(d - j));
}

// Four numbers of a row follow one another; the next four are `next` bytes on.
SIMD_INLINE void widen(float* out, const int8_t* in, int64_t next, int64_t d, const float* scale) {
  for (int64_t j = 0; j < d; j++) out[j] = static_cast<float>(in[j / 4 * next + j % 4]) * scale[j / kQuantBlock];
}

void embedding(const Step& step, Worker& w) {
  const auto [ids, weight, rows, scale] = step.inputs<4>();
  const auto y = step.outputs<1>()[0];
  const int64_t length = ids.size[1], d = y.size[2], extra = rows ? rows.size[0] : 0;
  const bool lines = weight.rank == 3;
  const int64_t words = lines ? scale.size[0] : weight.size[0];
  w.each(ids.numel(), 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t b = i / length, l = i % length;
      const int64_t id = ids.as<int32_t>()[b * ids.stride[0] + l * ids.stride[1]];
      if (id >= words || -1 - id >= extra) {
        w.fail("ERR_OP_INDEX", "ids[", b, ",", l, "] is ", id, ": weight has ", words, " rows, rows has ", extra,
               " (row r is id -1 - r)");
        return;
      }
      float* out = row(y, i);
      if (id < 0) {
        std::memcpy(out, row(rows, -1 - id), d * sizeof *out);
      } else if (weight.dtype == Dtype::f32) {
        std::memcpy(out, row(weight, id), d * sizeof *out);
      } else if (weight.dtype == Dtype::i8) {
        const int8_t* in = lines ? weight.as<int8_t>() + id / kLineRows * weight.stride[0] + id % kLineRows * 4
                                 : row<int8_t>(weight, id);
        widen(out, in, lines ? kLineBytes : 4, d, row(scale, id));
      } else {
        const uint16_t* in = row<uint16_t>(weight, id);
        if (weight.dtype == Dtype::bf16) {
          widen(out, in, d, [](const uint16_t* p) { return load_bf16(p); });
        } else {
          widen(out, in, d, [](const uint16_t* p) { return load_f16(p); });
        }
      }
    }
  });
}

}  // namespace vlm::SIMD
SIMD_END

#if SIMD_ONCE
namespace vlm {

size_t prepare_embedding(const Step& step, int) {
  const auto [ids, weight, rows, scale] = step.inputs<4>();
  const auto y = step.outputs<1>()[0];
  check_given(ids, "ids");
  check_dtype(ids, "ids", Dtype::i32);
  check_size(ids, "ids", {-1, -1});
  check_given(weight, "weight");
  const bool int8 = weight.dtype == Dtype::i8;
  CHECK(int8 || weight.dtype == Dtype::f32 || weight.dtype == Dtype::f16 || weight.dtype == Dtype::bf16,
        "weight must be f32, f16, bf16 or i8, got ", shape(weight));
  check_given(y, "y");
  const bool lines = int8 && weight.rank == 3;
  const int64_t d = lines ? y.size[2] : weight.size[1], words = lines ? scale.size[0] : weight.size[0];
  if (lines) {
    check_size(weight, "weight", {(words + kLineRows - 1) / kLineRows, quant_lines(false, d), kLineBytes});
    check_contiguous(weight, "weight");
  } else {
    check_size(weight, "weight", {-1, -1});
    check_rows(weight, "weight");
  }
  CHECK(int8 == static_cast<bool>(scale), "scale goes with a weight of i8, got ", shape(weight));
  if (scale) {
    check_dtype(scale, "scale", Dtype::f32);
    check_size(scale, "scale", {words, quant_blocks(d)});
    check_rows(scale, "scale");
  }
  if (rows) {
    check_dtype(rows, "rows", Dtype::f32);
    check_size(rows, "rows", {-1, d});
    check_rows(rows, "rows");
  }
  check_dtype(y, "y", Dtype::f32);
  check_size(y, "y", {ids.size[0], ids.size[1], d});
  check_rows(y, "y");
  return 0;
}

SIMD_KERNELS(embedding)

}  // namespace vlm
#endif
