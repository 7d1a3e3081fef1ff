#include "kit.h"

namespace vlm::test {

std::vector<int32_t> Words::encode() const {
  std::vector<int32_t> words = {0x564c4d50, 1};
  const auto wide = [&](int64_t n) {
    words.push_back(static_cast<int32_t>(n));
    words.push_back(static_cast<int32_t>(n >> 32));
  };
  for (const size_t n :
       {values.size(), static_cast<size_t>(buffers), tensors.size(), inputs.size(), outputs.size(), steps.size()})
    words.push_back(static_cast<int32_t>(n));
  for (const int64_t bytes : values) wide(bytes);
  for (const Tensor& t : tensors) {
    words.insert(words.end(), {t.storage, t.dtype, static_cast<int32_t>(t.size.size())});
    wide(t.offset);
    std::vector<int64_t> stride = t.stride;
    if (stride.empty()) {
      stride.assign(t.size.size(), 1);
      for (size_t i = t.size.size(); i-- > 1;) stride[i - 1] = stride[i] * t.size[i];
    }
    for (size_t i = 0; i < t.size.size(); i++) wide(t.size[i]), wide(stride[i]);
  }
  words.insert(words.end(), inputs.begin(), inputs.end());
  words.insert(words.end(), outputs.begin(), outputs.end());
  for (const Step& s : steps) {
    words.push_back(s.op);
    words.insert(words.end(), s.tensors.begin(), s.tensors.end());
    words.insert(words.end(), s.attrs.begin(), s.attrs.end());
  }
  return words;
}

int32_t op_id(const char* name) {
  for (int i = 0; i < kOpCount; i++)
    if (std::strcmp(kOps[i].name, name) == 0) return i;
  return -1;
}

}  // namespace vlm::test
