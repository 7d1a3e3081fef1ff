#include "load.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

#include "file.h"
#include "half.h"
#include "quantize.h"

namespace vlm {
namespace {

constexpr int64_t kPiece = 4 << 20;  // bytes that a thread reads between two looks at the token, and has room for
constexpr int64_t kMostThreads = 16;
constexpr int64_t kBlockGrids = kQuantBlock / kQuantGroup * 2;  // bytes

void check_unchanged(const File& file, const std::string& path, const FileIdentity& expected) {
  const FileIdentity now = file.identity();
  const bool same = now.dev == expected.dev && now.ino == expected.ino && now.size == expected.size &&
                    now.mtime_ns == expected.mtime_ns;
#ifdef _WIN32
  const bool unchanged = now.size == expected.size || same;
#else
  const bool unchanged = same;
#endif
  if (!unchanged) throw Error("ERR_ST_CHANGED", text(path, ": the file changed while it was being read"));
}

float widen(const std::byte* p, Dtype dtype) {
  if (dtype == Dtype::f32) {
    float f;
    std::memcpy(&f, p, 4);
    return f;
  }
  uint16_t h;
  std::memcpy(&h, p, 2);
  return dtype == Dtype::bf16 ? bf16_to_f32(h) : f16_to_f32(h);
}

void convert(const std::byte* from, std::byte* to, int64_t count, const Segment& s) {
  const int64_t in = dtype_bytes(s.from), out = dtype_bytes(s.to);
  for (int64_t i = 0; i < count; i++) {
    float f = widen(from + i * in, s.from);
    if (s.transform == Transform::neg_exp) f = static_cast<float>(-std::exp(static_cast<double>(f)));
    if (s.to == Dtype::f32) {
      std::memcpy(to + i * out, &f, 4);
    } else {
      const uint16_t h = s.to == Dtype::bf16 ? f32_to_bf16(f) : f32_to_f16(f);
      std::memcpy(to + i * out, &h, 2);
    }
  }
}

// Spreads row `row` of a matrix over the lines of its stripe; what fills up the last of them stays 0.
void spread(const Segment& s, const std::byte* from, int64_t row, std::byte* matrix) {
  std::byte* to = matrix + row / kLineRows * s.stripe_bytes() + row % kLineRows * 4;
  const int64_t bytes = s.row_bytes();
  int64_t j = 0;
  for (; j + 4 <= bytes; j += 4, to += kLineBytes) std::memcpy(to, from + j, 4);
  if (j < bytes) std::memcpy(to, from + j, static_cast<size_t>(bytes - j));
}

// `made` has room for a row.
void quantize(const Segment& s, const std::byte* from, int64_t row, int64_t rows, std::byte* buffer, float* floats,
              std::byte* made) {
  const int64_t k = s.columns, scales = quant_blocks(k), grids = scales * kBlockGrids;
  for (const int64_t end = row + rows; row < end; row++, from += k * dtype_bytes(s.from)) {
    std::byte* const weight = s.lines ? made : buffer + s.at + row * s.row_bytes();
    auto* const scale = reinterpret_cast<float*>(buffer + s.scale_at) + row * scales;
    auto* const grid = reinterpret_cast<int8_t*>(buffer + s.grid_at) + row * grids;
    const bool finite =
        s.to == Dtype::i8 ? quantizer().int8(from, s.from, k, floats, reinterpret_cast<int8_t*>(weight), scale)
                          : quantizer().int4(from, s.from, k, floats, reinterpret_cast<uint8_t*>(weight), scale, grid);
    if (!finite)
      throw Error("ERR_QUANT_VALUES", "holds a number that is not finite, for which 8 or 4 bits have no place");
    if (s.lines) spread(s, made, s.row + row, buffer + s.at);
  }
}

void check_values(const std::byte* data, int64_t count, Rule rule) {
  const auto* bytes = reinterpret_cast<const int8_t*>(data);
  if (rule == Rule::weights && !valid_weights(bytes, count))
    throw Error("ERR_QUANT_VALUES", "holds -128, weights go from -127 to 127");
  if (rule == Rule::scales && !valid_scales(reinterpret_cast<const float*>(data), count))
    throw Error("ERR_QUANT_VALUES", "holds a scale that is negative or not finite");
  if (rule == Rule::grids && !valid_grids(bytes, count))
    throw Error("ERR_QUANT_VALUES", "holds a grid that leaves -127 to 127, or whose step is not 1 to 16");
}

// Elements of a segment that one thread reads at a time: whole rows where they become a matrix with scales.
struct Piece {
  int segment;
  int64_t first, count;
};

std::vector<Piece> cut(const std::vector<Segment>& segments) {
  std::vector<Piece> pieces;
  for (size_t i = 0; i < segments.size(); i++) {
    const Segment& s = segments[i];
    const int64_t unit = s.quantizes() ? s.columns : s.lines ? s.row_bytes() : 1;
    const int64_t most = std::max<int64_t>(1, kPiece / (dtype_bytes(s.from) * unit)) * unit;
    for (int64_t first = 0; first < s.count; first += most)
      pieces.push_back({static_cast<int>(i), first, std::min(most, s.count - first)});
  }
  return pieces;
}

class Loader {
 public:
  Loader(Backend& backend, const std::string& path, const std::vector<Segment>& segments, Token& token)
      : backend_(backend), path_(path), file_(path), segments_(segments), pieces_(cut(segments)), token_(token) {}

  const File& file() const { return file_; }

  // How many threads there is work for. Only where memory can be written in place: a GPU's is the device's thread's.
  int useful(int threads) const {
    for (const Segment& s : segments_)
      if (!backend_.host_address(s.buffer->memory)) return 1;
    return static_cast<int>(std::min<int64_t>({threads, kMostThreads, static_cast<int64_t>(pieces_.size())}));
  }

  // What every thread does until no piece is left; the first failure ends it for all.
  void work() noexcept {
    try {
      Scratch scratch;
      for (size_t i; (i = next_++) < pieces_.size();) {
        if (token_.cancelled) throw Error("ERR_CANCELLED", "loading was cancelled");
        load(pieces_[i], scratch);
      }
    } catch (...) {
      next_ = pieces_.size();
      const std::lock_guard guard(lock_);
      if (!failure_) failure_ = std::current_exception();
    }
  }

  void finish() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  struct Scratch {
    std::vector<std::byte> staged, converted, row;
    std::vector<float> floats;
  };

  void load(const Piece& piece, Scratch& scratch) {
    const Segment& s = segments_[static_cast<size_t>(piece.segment)];
    const int64_t in = dtype_bytes(s.from), out = dtype_bytes(s.to), n = piece.count;
    const bool as_stored = s.from == s.to && s.transform == Transform::none;
    const bool in_place = as_stored && !s.lines;
    std::byte* const memory = static_cast<std::byte*>(s.buffer->memory);
    std::byte* const host = backend_.host_address(memory);
    const int64_t place = s.at + piece.first * out;
    if (!host && (s.lines || s.quantizes())) throw Error("ERR_CUDA_QUANT", "weights in int8 and int4 are for the CPU");
    if (!(in_place && host)) fit(scratch.staged, n * in);
    std::byte* const to = in_place && host ? host + place : scratch.staged.data();
    if (file_.read(to, static_cast<size_t>(n * in), s.offset + piece.first * in) != static_cast<size_t>(n * in))
      throw Error("ERR_ST_CHANGED", text(path_, ": the file ended while it was being read"));
    try {
      if (as_stored) {
        check_values(to, n, s.rule);
        const int64_t bytes = s.row_bytes();
        for (int64_t i = 0; s.lines && i < n; i += bytes)
          spread(s, to + i, s.row + (piece.first + i) / bytes, host + s.at);
      } else if (s.quantizes()) {
        scratch.floats.resize(static_cast<size_t>(s.columns));
        fit(scratch.row, s.row_bytes());
        quantize(s, to, piece.first / s.columns, n / s.columns, host, scratch.floats.data(), scratch.row.data());
      } else {
        if (!host) fit(scratch.converted, n * out);
        convert(to, host ? host + place : scratch.converted.data(), n, s);
      }
    } catch (Error& error) {
      error.step = piece.segment;
      throw;
    }
    Failure failure;
    const std::byte* const made = as_stored ? to : scratch.converted.data();
    if (!host && !backend_.write(memory + place, made, static_cast<size_t>(n * out), failure))
      throw Error(failure.code, failure.message);
    token_.progress += n * in;
  }

  static void fit(std::vector<std::byte>& room, int64_t bytes) {
    if (room.size() < static_cast<size_t>(bytes)) room.resize(static_cast<size_t>(bytes));
  }

  Backend& backend_;
  const std::string& path_;
  const File file_;
  const std::vector<Segment>& segments_;
  const std::vector<Piece> pieces_;
  Token& token_;
  std::atomic<size_t> next_{0};
  std::mutex lock_;
  std::exception_ptr failure_;
};

}  // namespace

void load_file(Backend& backend, const std::string& path, const FileIdentity& expected,
               const std::vector<Segment>& segments, int threads, Token& token) {
  Loader loader(backend, path, segments, token);
  check_unchanged(loader.file(), path, expected);
  std::vector<std::thread> helpers;
  helpers.reserve(kMostThreads);
  try {
    for (int i = loader.useful(threads); i > 1; i--) helpers.emplace_back(&Loader::work, &loader);
  } catch (const std::exception&) {
    // The system starts no more threads: those there are do the work.
  }
  loader.work();
  for (std::thread& helper : helpers) helper.join();
  loader.finish();
  check_unchanged(loader.file(), path, expected);
}

}  // namespace vlm
