#include "load.h"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <deque>
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

// Some rows of a matrix of 8 or 4 bits: where weights, scales and grids go in the buffer, and their bytes.
struct QuantisedRows {
  struct {
    int64_t at, row_bytes;
  } parts[3];
  int64_t first, count;

  QuantisedRows(const Segment& s, int64_t first, int64_t count) : first(first), count(count) {
    const int64_t blocks = quant_blocks(s.columns);
    parts[0] = {s.at, s.row_bytes()};
    parts[1] = {s.scale_at, blocks * static_cast<int64_t>(sizeof(float))};
    parts[2] = {s.grid_at, s.to == Dtype::i8 ? 0 : blocks * kBlockGrids};
    for (auto& part : parts) part.at += first * part.row_bytes;
  }
  static int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }
  // Of all parts one behind another.
  int64_t bytes() const {
    int64_t sum = 0;
    for (const auto& part : parts) sum += aligned(count * part.row_bytes);
    return sum;
  }
};

// Spreads row `row` of a matrix over the lines of its stripe; what fills up the last of them stays 0.
void spread(const Segment& s, const std::byte* from, int64_t row, std::byte* matrix) {
  std::byte* to = matrix + row / kLineRows * s.stripe_bytes() + row % kLineRows * 4;
  const int64_t bytes = s.row_bytes();
  int64_t j = 0;
  for (; j + 4 <= bytes; j += 4, to += kLineBytes) std::memcpy(to, from + j, 4);
  if (j < bytes) std::memcpy(to, from + j, static_cast<size_t>(bytes - j));
}

// to: the places of weights, scales and grids; with a matrix of lines, of one row of weights on its way there.
void quantize(const Segment& s, const std::byte* from, const QuantisedRows& rows, std::byte* const (&to)[3],
              std::byte* lines, float* floats) {
  const int64_t k = s.columns;
  for (int64_t i = 0; i < rows.count; i++, from += k * dtype_bytes(s.from)) {
    std::byte* const weight = to[0] + (lines ? 0 : i * rows.parts[0].row_bytes);
    auto* const scale = reinterpret_cast<float*>(to[1] + i * rows.parts[1].row_bytes);
    auto* const grid = reinterpret_cast<int8_t*>(to[2] + i * rows.parts[2].row_bytes);
    const bool finite =
        s.to == Dtype::i8 ? quantizer().int8(from, s.from, k, floats, reinterpret_cast<int8_t*>(weight), scale)
                          : quantizer().int4(from, s.from, k, floats, reinterpret_cast<uint8_t*>(weight), scale, grid);
    if (!finite)
      throw Error("ERR_QUANT_VALUES", "holds a number that is not finite, for which 8 or 4 bits have no place");
    if (lines) spread(s, weight, s.row + rows.first + i, lines);
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

  // Whether numbers are made where they stay. A GPU's memory is written by the device's thread alone.
  bool in_place() const {
    return std::all_of(segments_.begin(), segments_.end(),
                       [&](const Segment& s) { return backend_.host_address(s.buffer->memory) != nullptr; });
  }

  // How many threads there is work for.
  int useful(int threads) const {
    return static_cast<int>(std::min<int64_t>({threads, kMostThreads, static_cast<int64_t>(pieces_.size())}));
  }

  // What every thread does until no piece is left; the first failure ends it for all.
  void work() noexcept { each_piece(true); }

  // The same for a thread that leaves the writing to write_for_helpers().
  void help() noexcept {
    each_piece(false);
    const std::lock_guard guard(lock_);
    helping_--;
    arrived_.notify_one();
  }

  void expect_help(int helpers) {
    const std::lock_guard guard(lock_);
    helping_ += helpers;
  }

  void write_for_helpers() noexcept {
    std::unique_lock guard(lock_);
    for (;;) {
      arrived_.wait(guard, [&] { return !parcels_.empty() || helping_ == 0; });
      if (parcels_.empty()) return;
      Parcel& parcel = *parcels_.front();
      parcels_.pop_front();
      guard.unlock();
      try {
        write(parcel.parts);
      } catch (...) {
        fail();
      }
      guard.lock();
      parcel.written = true;
      written_.notify_all();
    }
  }

  void finish() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  struct Scratch {
    std::vector<std::byte> staged, made;
    std::vector<float> floats;
  };
  struct Part {
    std::byte* to;
    const std::byte* from;
    int64_t bytes;
  };
  struct Parcel {
    std::vector<Part> parts;
    bool written = false;
  };

  void each_piece(bool writes) noexcept {
    try {
      Scratch scratch;
      for (size_t i; (i = next_++) < pieces_.size();) {
        if (token_.cancelled) throw Error("ERR_CANCELLED", "loading was cancelled");
        Parcel parcel = load(pieces_[i], scratch);
        if (parcel.parts.empty()) continue;
        if (writes)
          write(parcel.parts);
        else
          hand_over(parcel);
      }
    } catch (...) {
      fail();
    }
  }

  void fail() {
    next_ = pieces_.size();
    const std::lock_guard guard(lock_);
    if (!failure_) failure_ = std::current_exception();
  }

  void write(const std::vector<Part>& parts) {
    for (const Part& part : parts) {
      Failure failure;
      if (!backend_.write(part.to, part.from, static_cast<size_t>(part.bytes), failure))
        throw Error(failure.code, failure.message);
    }
  }

  void hand_over(Parcel& parcel) {
    std::unique_lock guard(lock_);
    parcels_.push_back(&parcel);
    arrived_.notify_one();
    written_.wait(guard, [&] { return parcel.written; });
  }

  // Reads a piece and makes it what it is to be, in place or else for someone to write.
  Parcel load(const Piece& piece, Scratch& scratch) {
    const Segment& s = segments_[static_cast<size_t>(piece.segment)];
    const int64_t in = dtype_bytes(s.from), out = dtype_bytes(s.to), n = piece.count;
    const bool as_stored = s.from == s.to && s.transform == Transform::none;
    const bool in_place = as_stored && !s.lines;
    std::byte* const memory = static_cast<std::byte*>(s.buffer->memory);
    std::byte* const host = backend_.host_address(memory);
    const int64_t place = s.at + piece.first * out;
    if (!host && s.lines) throw Error("ERR_INTERNAL", "lines of sixteen rows are for the CPU");
    if (!(in_place && host)) fit(scratch.staged, n * in);
    std::byte* const to = in_place && host ? host + place : scratch.staged.data();
    if (file_.read(to, static_cast<size_t>(n * in), s.offset + piece.first * in) != static_cast<size_t>(n * in))
      throw Error("ERR_ST_CHANGED", text(path_, ": the file ended while it was being read"));
    Parcel parcel;
    try {
      if (as_stored) {
        check_values(to, n, s.rule);
        if (!host) parcel.parts = {{memory + place, to, n * out}};
        const int64_t bytes = s.row_bytes();
        for (int64_t i = 0; s.lines && i < n; i += bytes)
          spread(s, to + i, s.row + (piece.first + i) / bytes, host + s.at);
      } else if (s.quantizes()) {
        const QuantisedRows rows(s, piece.first / s.columns, n / s.columns);
        std::byte* made[3];
        int64_t end = 0;
        fit(scratch.made, s.lines ? s.row_bytes() : host ? 0 : rows.bytes());
        for (int i = 0; i < 3; i++) {
          const auto [at, row_bytes] = rows.parts[i];
          const int64_t bytes = rows.count * row_bytes;
          made[i] = host ? host + at : scratch.made.data() + end;
          if (!host && bytes > 0) parcel.parts.push_back({memory + at, made[i], bytes});
          end += QuantisedRows::aligned(bytes);
        }
        if (s.lines) made[0] = scratch.made.data();
        scratch.floats.resize(static_cast<size_t>(s.columns));
        quantize(s, to, rows, made, s.lines ? host + s.at : nullptr, scratch.floats.data());
      } else {
        if (!host) fit(scratch.made, n * out);
        std::byte* const made = host ? host + place : scratch.made.data();
        convert(to, made, n, s);
        if (!host) parcel.parts = {{memory + place, made, n * out}};
      }
    } catch (Error& error) {
      error.step = piece.segment;
      throw;
    }
    token_.progress += n * in;
    return parcel;
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
  std::mutex lock_;  // of all below
  std::exception_ptr failure_;
  int helping_ = 0;
  std::deque<Parcel*> parcels_;  // that wait to be written
  std::condition_variable arrived_, written_;
};

}  // namespace

void load_file(Backend& backend, const std::string& path, const FileIdentity& expected,
               const std::vector<Segment>& segments, int threads, Token& token) {
  Loader loader(backend, path, segments, token);
  check_unchanged(loader.file(), path, expected);
  std::vector<std::thread> helpers;
  helpers.reserve(kMostThreads);
  const bool in_place = loader.in_place();
  const int wanted = loader.useful(threads) - (in_place ? 1 : 0);
  if (!in_place) loader.expect_help(wanted);
  try {
    while (static_cast<int>(helpers.size()) < wanted)
      helpers.emplace_back(in_place ? &Loader::work : &Loader::help, &loader);
  } catch (const std::exception&) {
    // The system starts no more threads: those there are do the work.
    if (!in_place) loader.expect_help(static_cast<int>(helpers.size()) - wanted);
  }
  if (!in_place) loader.write_for_helpers();
  loader.work();
  for (std::thread& helper : helpers) helper.join();
  loader.finish();
  check_unchanged(loader.file(), path, expected);
}

}  // namespace vlm
