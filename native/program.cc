#include "program.h"

#include <algorithm>
#include <array>
#include <utility>

#include "ops.h"

namespace vlm {
namespace {

constexpr int32_t kMagic = 0x564c4d50;  // "VLMP"
constexpr int32_t kVersion = 1;
constexpr int64_t kMaxCount = 1 << 20;
constexpr int64_t kMaxElements = int64_t{1} << 44;
constexpr int64_t kAlign = 64;

#define REQUIRE(condition, ...) \
  if (!(condition)) throw Error("ERR_PROGRAM", text(__VA_ARGS__))

int count_words(const char* s) {
  int n = 0;
  for (bool inside = false; *s; s++) {
    if (*s != ' ' && !inside) n++;
    inside = *s != ' ';
  }
  return n;
}

int64_t align_up(int64_t n) { return (n + kAlign - 1) / kAlign * kAlign; }

}  // namespace

class Decoder {
 public:
  Decoder(const int32_t* words, size_t count) : next_(words), end_(words + count) {}

  void read(Program& p) {
    REQUIRE(word() == kMagic && word() == kVersion, "not a program of this version");
    const int64_t values = counted("values"), buffers = counted("buffers"), tensors = counted("tensors");
    const int64_t inputs = counted("inputs"), outputs = counted("outputs"), steps = counted("steps");
    REQUIRE(buffers == static_cast<int64_t>(p.buffers.size()), "the program names ", buffers, " buffers, ",
            p.buffers.size(), " were given");
    for (int64_t i = 0; i < values; i++) {
      const int64_t bytes = wide();
      REQUIRE(bytes >= 0 && bytes <= kMaxElements, "value ", i, " has ", bytes, " bytes");
      p.value_bytes.push_back(bytes);
    }
    for (int64_t i = 0; i < tensors; i++) p.tensors.push_back(tensor(p, i));
    for (int64_t i = 0; i < inputs; i++) p.inputs.push_back(port(p, "input"));
    for (int64_t i = 0; i < outputs; i++) p.outputs.push_back(port(p, "output"));
    for (int64_t i = 0; i < steps; i++) step(p, i);
    REQUIRE(next_ == end_, end_ - next_, " words left over");
    check_order(p);
  }

 private:
  int32_t word() {
    REQUIRE(next_ < end_, "the program ends in the middle");
    return *next_++;
  }
  int64_t wide() {
    const auto low = static_cast<uint32_t>(word());
    return static_cast<int64_t>(static_cast<uint64_t>(static_cast<uint32_t>(word())) << 32 | low);
  }
  int64_t counted(const char* what) {
    const int64_t n = word();
    REQUIRE(n >= 0 && n <= kMaxCount, n, " ", what);
    return n;
  }

  Program::Tensor tensor(const Program& p, int64_t id) {
    Program::Tensor t;
    t.storage = word();
    const int64_t values = p.value_bytes.size(), buffers = p.buffers.size();
    REQUIRE(t.storage < values && -int64_t{t.storage} <= buffers, "tensor ", id, " names storage ", t.storage);
    const int32_t dtype = word();
    REQUIRE(dtype >= 0 && dtype < kDtypes, "tensor ", id, " has dtype ", dtype);
    t.arg.dtype = static_cast<Dtype>(dtype);
    t.arg.rank = word();
    REQUIRE(t.arg.rank >= 1 && t.arg.rank <= kMaxRank, "tensor ", id, " has rank ", t.arg.rank);
    const int64_t offset = wide();
    REQUIRE(offset >= 0 && offset <= kMaxElements, "tensor ", id, " has offset ", offset);
    int64_t elements = 1, last = 0;  // last: the farthest element from the offset
    for (int i = 0; i < t.arg.rank; i++) {
      const int64_t size = wide(), stride = wide();
      REQUIRE(size >= 0 && size <= kMaxElements, "tensor ", id, " has size ", size);
      REQUIRE(stride >= 0 && stride <= kMaxElements, "tensor ", id, " has stride ", stride);
      // Zeros don't count, so that the product of any of the sizes is a number that ops can compute with.
      REQUIRE(elements <= kMaxElements / std::max<int64_t>(size, 1), "tensor ", id, " has too many elements");
      elements *= std::max<int64_t>(size, 1);
      REQUIRE(size == 0 || stride <= (kMaxElements - last) / std::max<int64_t>(size - 1, 1), "tensor ", id,
              " reaches too far");
      if (size) last += (size - 1) * stride;
      t.arg.size[i] = size;
      t.arg.stride[i] = stride;
    }
    const int64_t width = dtype_bytes(t.arg.dtype);
    t.offset = offset * width;
    t.bytes = t.arg.numel() ? (last + 1) * width : 0;
    const int64_t available =
        t.storage >= 0 ? p.value_bytes[t.storage] : static_cast<int64_t>(p.buffers[-1 - t.storage]->bytes);
    REQUIRE(t.offset <= available && t.bytes <= available - t.offset, "tensor ", id, " ends at byte ",
            t.offset + t.bytes, " of a storage of ", available);
    return t;
  }

  int32_t tensor_id(const Program& p, bool optional) {
    const int32_t id = word();
    REQUIRE(id >= (optional ? -1 : 0) && id < static_cast<int64_t>(p.tensors.size()), "no tensor ", id);
    return id;
  }

  int32_t port(const Program& p, const char* what) {
    const int32_t id = tensor_id(p, false);
    const auto& t = p.tensors[id];
    REQUIRE(t.storage >= 0 && t.bytes == t.arg.numel() * dtype_bytes(t.arg.dtype), what, " ", id,
            " must be a contiguous value");
    return id;
  }

  void step(Program& p, int64_t index) {
    Step s;
    s.op = word();
    REQUIRE(s.op >= 0 && s.op < kOpCount, "step ", index, " names op ", s.op);
    const Op& op = kOps[s.op];
    const int in = count_words(op.inputs), out = count_words(op.outputs), attrs = count_words(op.attrs);
    std::vector<int32_t> ids;
    for (int i = 0; i < in + out; i++) {
      const int32_t id = tensor_id(p, true);
      ids.push_back(id);
      if (id >= 0) (i < in ? s.in[i] : s.out[i - in]) = p.tensors[id].arg;
    }
    for (int i = 0; i < attrs; i++) s.attr[i].i = word();
    check_places(p, index, ids, in);
    p.steps.push_back(s);
    p.step_tensors_.push_back(std::move(ids));
    p.step_inputs_.push_back(in);
  }

  // Whether every element has a place of its own: from the shortest stride to the longest, each steps over all before it.
  static bool spread_out(const TensorArg& t) {
    std::array<std::pair<int64_t, int64_t>, kMaxRank> dims;  // stride, size
    int n = 0;
    for (int i = 0; i < t.rank; i++)
      if (t.size[i] > 1) dims[n++] = {t.stride[i], t.size[i]};
    std::sort(dims.begin(), dims.begin() + n);
    int64_t last = 0;
    for (int i = 0; i < n; i++) {
      const auto [stride, size] = dims[i];
      if (stride <= last) return false;
      last += (size - 1) * stride;
    }
    return true;
  }

  // What a step writes lies apart from its other tensors, or is one of its inputs: the same elements in the same places.
  void check_places(const Program& p, int64_t step, const std::vector<int32_t>& ids, int in) {
    const auto meet = [](const Program::Tensor& a, const Program::Tensor& b) {
      return a.storage == b.storage && a.bytes && b.bytes && a.offset < b.offset + b.bytes &&
             b.offset < a.offset + a.bytes;
    };
    const auto same = [](const Program::Tensor& a, const Program::Tensor& b) {
      return a.offset == b.offset && a.arg.dtype == b.arg.dtype && a.arg.rank == b.arg.rank &&
             a.arg.size == b.arg.size && a.arg.stride == b.arg.stride;
    };
    for (size_t o = in; o < ids.size(); o++) {
      if (ids[o] < 0) continue;
      const auto& written = p.tensors[ids[o]];
      REQUIRE(!written.bytes || spread_out(written.arg), "step ", step, " writes elements of tensor ", ids[o],
              " to the same place");
      for (size_t i = 0; i < o; i++) {
        if (ids[i] < 0) continue;
        const auto& other = p.tensors[ids[i]];
        REQUIRE(!meet(written, other) || (static_cast<int>(i) < in && same(written, other)), "step ", step,
                " writes tensor ", ids[o], " over a part of tensor ", ids[i]);
      }
    }
  }

  // No step and no output may read a value that nothing has written.
  void check_order(const Program& p) {
    std::vector<bool> written(p.value_bytes.size());
    for (int32_t id : p.inputs) written[p.tensors[id].storage] = true;
    auto check = [&](int32_t id, size_t at) {
      const int32_t storage = p.tensors[id].storage;
      REQUIRE(storage < 0 || written[storage], "step ", at, " reads tensor ", id, " before anything writes it");
    };
    for (size_t s = 0; s < p.steps.size(); s++) {
      const auto& ids = p.step_tensors_[s];
      for (int i = 0; i < p.step_inputs_[s]; i++)
        if (ids[i] >= 0) check(ids[i], s);
      for (size_t i = p.step_inputs_[s]; i < ids.size(); i++)
        if (ids[i] >= 0 && p.tensors[ids[i]].storage >= 0) written[p.tensors[ids[i]].storage] = true;
    }
    for (int32_t id : p.outputs) check(id, p.steps.size());
  }

  const int32_t *next_, *end_;
};

std::unique_ptr<Program> Program::decode(const int32_t* words, size_t count,
                                         std::vector<std::shared_ptr<Buffer>> buffers) {
  auto program = std::make_unique<Program>();
  program->buffers = std::move(buffers);
  Decoder(words, count).read(*program);
  program->plan();
  return program;
}

// Gives each value the lowest place in the arena that no value alive at the same time holds. Values are placed in the
// order in which they come alive, which for a chain of layers is as good as any.
void Program::plan() {
  const int count = static_cast<int>(value_bytes.size()), end = static_cast<int>(steps.size());
  std::vector<int> from(count, end + 1), until(count, -1);
  auto touch = [&](int32_t tensor, int step) {
    const int32_t v = tensors[tensor].storage;
    if (v < 0) return;
    from[v] = std::min(from[v], step);
    until[v] = std::max(until[v], step);
  };
  for (int32_t id : inputs) touch(id, -1);
  for (int s = 0; s < end; s++)
    for (int32_t id : step_tensors_[s])
      if (id >= 0) touch(id, s);
  for (int32_t id : outputs) touch(id, end);

  std::vector<int> order;
  for (int v = 0; v < count; v++)
    if (until[v] >= from[v]) order.push_back(v);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return from[a] < from[b]; });

  value_offset.assign(count, 0);
  std::vector<int> alive;  // placed and not yet dead, by offset
  for (int v : order) {
    std::erase_if(alive, [&](int other) { return until[other] < from[v]; });
    const int64_t need = align_up(value_bytes[v]);
    int64_t at = 0;
    auto place = alive.begin();
    for (; place != alive.end() && value_offset[*place] - at < need; ++place)
      at = value_offset[*place] + align_up(value_bytes[*place]);
    value_offset[v] = at;
    alive.insert(place, v);
    REQUIRE(at <= kMaxElements - need, "the program needs too much memory");
    arena_bytes = std::max(arena_bytes, at + need);
  }
}

void Program::bind(std::byte* arena) {
  for (auto& t : tensors) {
    auto* base =
        t.storage >= 0 ? arena + value_offset[t.storage] : static_cast<std::byte*>(buffers[-1 - t.storage]->memory);
    t.arg.data = base + t.offset;
  }
  for (size_t s = 0; s < steps.size(); s++) {
    const auto& ids = step_tensors_[s];
    const int in = step_inputs_[s];
    for (int i = 0; i < static_cast<int>(ids.size()); i++)
      if (ids[i] >= 0) (i < in ? steps[s].in[i] : steps[s].out[i - in]).data = tensors[ids[i]].arg.data;
  }
}

int64_t Program::traffic(int step) const {
  int64_t bytes = 0;
  for (int32_t id : step_tensors_[step])
    if (id >= 0) bytes += tensors[id].arg.numel() * dtype_bytes(tensors[id].arg.dtype);
  return bytes;
}

}  // namespace vlm
