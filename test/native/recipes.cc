// Programs of one step, made out of bytes: arguments that mostly fit together, in any layout and dtype, with now and then one
// that does not.
#include "recipes.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>

namespace vlm::test {

std::shared_ptr<Buffer> buffer_of(size_t bytes) {
  return {new Buffer{std::malloc(bytes), bytes}, [](Buffer* b) {
            std::free(b->memory);
            delete b;
          }};
}

namespace {

// Arguments as letters: the same letter, the same size. '?' in front: may be left out; '-': is. ':' i, u and q: i32, u8 and
// i8, w: f32, f16 or bf16. Where K or k stands for the directions of a scan, k may be missing.
struct Recipe {
  const char *op, *inputs, *outputs;
};
constexpr Recipe kRecipes[] = {
    {"activation", "rd", "rd"},
    {"attention", "blhe bmhe bmhe", "blhe"},
    {"causal_conv1d", "bdl dt ?d ?SdT ?b:i", "bdl ?SdT"},
    {"causal_conv1d_2d", "bdp kdt ?kd", "bKdp"},
    {"cross_merge", "bKcp", "bcyx"},
    {"cross_scan", "bcyx", "bKcp"},
    {"embedding", "bl:i nd:w ?md -", "bld"},
    {"embedding", "bl:i nz:q ?mz nB", "blz"},
    {"embedding", "bl:i NEF:q ?mz nB", "blz"},
    {"layer_norm", "rd d ?d ?rd", "rd ?rd"},
    {"linear", "re ne:w ?n ?rn - -", "rn"},
    {"linear", "rz nz:q ?n ?rn nB -", "rn"},
    {"linear", "rz nH:u ?n ?rn nB nG2:q", "rn"},
    {"linear", "rz NEF:q ?n ?rn nB -", "rn"},
    {"linear", "rz NUF:u ?n ?rn nB nG2:q", "rn"},
    {"patch_embed", "bcYX dcPP:w ?d ?qd ?d", "bqd"},
    {"resize_bicubic", "YX3:u", "yx3:u"},
    {"rms_norm", "rd d ?rd", "rd ?rd"},
    {"sample", "bv b6 b2:i b:i ?Sv:u ?b:i", "b:i b"},
    {"selective_scan", "bdl bdl dn bgnl bgnl ?d ?bdl ?d ?Sdn ?b:i", "bdl ?Sdn"},
    {"selective_scan_2d", "bKdp bKdp kdn bKnp bKnp ?kd ?bdp ?kd", "bdp"},
};

std::vector<std::string> split(const std::string& list, char at) {
  std::vector<std::string> parts(1);
  for (const char c : list)
    if (c == at)
      parts.emplace_back();
    else
      parts.back() += c;
  return parts;
}

class Cook {
 public:
  Cook(Choices& choices, int64_t longest) : choices_(choices), longest_(longest) {}

  Case cook() {
    const Recipe& recipe = kRecipes[choices_.within<size_t>(0, std::size(kRecipes) - 1)];
    const int32_t id = op_id(recipe.op);
    const bool four = choices_.flag();
    size_['K'] = four ? 4 : 2;
    for (const char c : std::string("bhlmnrecvqS")) size_[c] = choices_.within<int64_t>(0, 9);
    if (choices_.flag()) size_['l'] = size_['d'] = choices_.within<int64_t>(0, longest_);
    if (choices_.flag()) size_['n'] = size_['v'] = size_['e'] = choices_.within<int64_t>(1, 40);
    size_['g'] = choices_.within<int64_t>(1, 3);
    size_['d'] = size_['g'] * choices_.within<int64_t>(0, 24);
    size_['y'] = choices_.within<int64_t>(0, 6), size_['x'] = choices_.within<int64_t>(0, 6);
    size_['p'] = size_['y'] * size_['x'];
    size_['t'] = choices_.within<int64_t>(2, 4), size_['T'] = size_['t'] - 1;
    size_['P'] = choices_.within<int64_t>(1, 3);
    size_['Y'] = choices_.within<int64_t>(1, 9), size_['X'] = choices_.within<int64_t>(1, 9);
    size_['q'] = (size_['Y'] / size_['P']) * (size_['X'] / size_['P']);
    size_['z'] = choices_.within<int64_t>(0, 300), size_['B'] = quant_blocks(size_['z']);
    size_['H'] = size_['B'] * 64, size_['G'] = size_['B'] * 4;
    size_['N'] = (size_['n'] + kLineRows - 1) / kLineRows, size_['F'] = kLineBytes;
    size_['E'] = quant_lines(false, size_['z']), size_['U'] = quant_lines(true, size_['z']);
    if (choices_.flag()) size_['r'] = choices_.within<int64_t>(0, longest_);
    for (const char c : std::string("236")) size_[c] = c - '0';

    Words::Step step{id, {}, {}};
    auto arguments = split(recipe.inputs, ' ');
    const size_t in = arguments.size();
    for (const auto& output : split(recipe.outputs, ' ')) arguments.push_back(output);
    // Slots and the class embedding change what the other sizes are.
    const std::vector<std::string> names = split(std::string(kOps[id].inputs) + " " + kOps[id].outputs, ' ');
    std::vector<bool> given;
    for (size_t i = 0; i < arguments.size(); i++) {
      given.push_back(arguments[i] != "-" && (arguments[i][0] != '?' || choices_.flag()));
      if (names[i] == "slots?" && !given[i]) size_['S'] = size_['b'];
      if (names[i] == "class_embedding?" && given[i]) size_['q']++;
    }
    for (size_t i = 0; i < arguments.size(); i++) {
      step.tensors.push_back(given[i] ? static_cast<int32_t>(words_.tensors.size()) : -1);
      if (given[i]) add(arguments[i][0] == '?' ? arguments[i].substr(1) : arguments[i], i >= in);
    }
    for (const std::string& attr : split(kOps[id].attrs, ' '))
      if (!attr.empty()) step.attrs.push_back(attribute(attr, four));
    words_.steps.push_back(step);
    words_.buffers = static_cast<int32_t>(buffers_.size());
    auto words = words_.encode();
    if (choices_.within<int>(0, 15) == 0 && !words.empty())
      words[choices_.within<size_t>(0, words.size() - 1)] = choices_.any<int32_t>();
    return {std::move(words), std::move(buffers_), isa()};
  }

 private:
  Isa isa() {
    const Isa best = detect_isa();
    const auto lower = lower_isas(best);
    const size_t i = choices_.within<size_t>(0, lower.size());
    return i < lower.size() ? lower[i] : best;
  }

  void add(const std::string& letters, bool output) {
    const auto parts = split(letters, ':');
    Words::Tensor t{0, 0, {}};
    if (parts.size() > 1) {
      if (parts[1] == "i") t.dtype = 3;
      if (parts[1] == "u") t.dtype = 4;
      if (parts[1] == "q") t.dtype = 5;
      if (parts[1] == "w") t.dtype = choices_.within<int32_t>(0, 2);
    }
    for (const char c : parts[0]) {
      if (c == 'k' && choices_.flag()) continue;
      t.size.push_back(size_[c == 'k' ? 'K' : c]);
    }
    const int unusual = choices_.within<int>(0, 31);
    if (unusual == 1) t.dtype = choices_.within<int32_t>(0, kDtypes - 1);
    if (unusual == 2) t.size.push_back(1);
    if (unusual == 3) t.size[0] = choices_.within<int64_t>(0, 9);
    if (unusual == 4) t.offset = choices_.within<int64_t>(0, 9);
    // Row-major, in another order of dimensions, or with gaps.
    const int order = choices_.within<int>(0, 3);
    std::vector<size_t> axes(t.size.size());
    for (size_t i = 0; i < axes.size(); i++) axes[i] = i;
    if (order == 1 && axes.size() > 1) std::swap(axes[axes.size() - 1], axes[axes.size() - 2]);
    t.stride.assign(axes.size(), 1);
    int64_t reach = 1, elements = 1;
    for (size_t i = axes.size(); i-- > 0;) {
      t.stride[axes[i]] = reach;
      reach *= std::max<int64_t>(t.size[axes[i]], 1);
      elements *= t.size[axes[i]];
      if (order == 2 && i + 1 == axes.size()) reach += 3;
    }
    if (order == 3 && choices_.within<int>(0, 7) == 0) t.stride[0] = choices_.within<int64_t>(0, 9);
    int64_t last = 0;
    for (size_t i = 0; i < axes.size(); i++) last += std::max<int64_t>(t.size[i] - 1, 0) * t.stride[i];
    const auto width = dtype_bytes(static_cast<Dtype>(t.dtype));
    const int64_t count = elements ? t.offset + last + 1 : 0;
    if (count > kMost) t.size.assign(1, 0);
    t.storage = -1 - static_cast<int32_t>(buffers_.size());
    // An argument may lie where an earlier one does.
    if (!buffers_.empty() && choices_.within<int>(0, 31) == 0) {
      t.storage = -1 - choices_.within<int32_t>(0, static_cast<int32_t>(buffers_.size()) - 1);
    } else {
      buffers_.push_back(buffer_of(static_cast<size_t>(std::min(count, kMost) * width)));
      fill(*buffers_.back(), t.dtype, output);
    }
    words_.tensors.push_back(t);
  }

  void fill(Buffer& buffer, int32_t dtype, bool output) {
    auto* bytes = static_cast<unsigned char*>(buffer.memory);
    std::memset(bytes, 0, buffer.bytes);
    if (output) return;
    const int seed = choices_.any<uint8_t>();
    for (size_t i = 0; i * 4 + 4 <= buffer.bytes; i++) {
      const float f = std::sin(static_cast<float>(seed + static_cast<int>(i)));
      const int32_t n = static_cast<int32_t>(i) - (seed > 200 ? 3 : 0);
      if (dtype == 0) std::memcpy(bytes + i * 4, &f, 4);
      if (dtype == 3) std::memcpy(bytes + i * 4, &n, 4);
    }
    // A few bytes of the fuzzer's own: NaNs, infinities, ids out of range.
    const auto own = choices_.bytes(choices_.within<size_t>(0, 12));
    if (own.size() <= buffer.bytes && !own.empty()) std::memcpy(bytes, own.data(), own.size());
  }

  int32_t attribute(const std::string& attr, bool four) {
    const auto parts = split(attr, ':');
    if (parts[1] == "f32") return choices_.within<int>(0, 7) ? bits(1e-5f) : choices_.any<int32_t>();
    if (choices_.within<int>(0, 31) == 0) return choices_.any<int32_t>();
    if (parts[0] == "scan") return four ? 1 : 0;
    if (parts[0] == "height") return static_cast<int32_t>(size_['y']);
    if (parts[0] == "width") return static_cast<int32_t>(size_['x']);
    if (parts[1] == "i32") return choices_.within<int32_t>(1, 40);
    return choices_.within<int32_t>(0, static_cast<int32_t>(split(parts[1], '|').size()) - 1);
  }

  Choices& choices_;
  const int64_t longest_;
  std::map<char, int64_t> size_;
  Words words_;
  std::vector<std::shared_ptr<Buffer>> buffers_;
};

}  // namespace

Case make_case(Choices& choices, int64_t longest) { return Cook(choices, longest).cook(); }

}  // namespace vlm::test
