#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "shotstream/qkv_append.h"
#include "shotstream/status.h"

using shotstream::Bfloat16;
using shotstream::qkv_append;
using shotstream::QkvAppend;
using shotstream::rms_norm;
using shotstream::Status;

namespace {

float widen(float x) { return x; }

float widen(Bfloat16 x) {
  const std::uint32_t bits = std::uint32_t{x.bits} << 16;
  float wide;
  static_assert(sizeof wide == sizeof bits);
  __builtin_memcpy(&wide, &bits, sizeof wide);
  return wide;
}

// Numbers that bfloat16 holds exactly: quarters up to 8.
template <class T>
std::vector<T> numbers(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> quarters(-32, 32);
  std::vector<T> made(count);
  for (T& number : made) {
    const float wide = static_cast<float>(quarters(random)) / 4;
    std::uint32_t bits;
    __builtin_memcpy(&bits, &wide, sizeof bits);
    if constexpr (sizeof(T) == 2) {
      number.bits = static_cast<std::uint16_t>(bits >> 16);
    } else {
      number = wide;
    }
  }
  return made;
}

template <class T>
double rounding(double wanted) {
  return (sizeof(T) == 2 ? 0x1p-8 : 0x1p-20) * (std::abs(wanted) + 0x1p-20);
}

template <class T>
double scale_of(const T* row, std::size_t width, double eps) {
  double sum = 0;
  for (std::size_t i = 0; i < width; ++i) sum += double{widen(row[i])} * widen(row[i]);
  return 1 / std::sqrt(sum / static_cast<double>(width) + eps);
}

void norms_rows() {
  constexpr std::size_t kRows = 5, kWidth = 48;
  const std::vector<Bfloat16> x = numbers<Bfloat16>(kRows * kWidth, 1),
                              weight = numbers<Bfloat16>(kWidth, 2);
  std::vector<Bfloat16> out(x.size());
  rms_norm(x.data(), weight.data(), 1e-6f, kRows, kWidth, out.data());
  for (std::size_t row = 0; row < kRows; ++row) {
    const double scale = scale_of(&x[row * kWidth], kWidth, 1e-6);
    for (std::size_t i = 0; i < kWidth; ++i) {
      const double wanted = widen(x[row * kWidth + i]) * scale * widen(weight[i]);
      CHECK(std::abs(widen(out[row * kWidth + i]) - wanted) <= rounding<Bfloat16>(wanted));
    }
  }
}

template <class T>
void appends_a_chunk(bool rotate_keys) {
  constexpr std::size_t kHeads = 3, kHeadDim = 32, kWidth = kHeads * kHeadDim;
  constexpr std::size_t kFrameTokens = 4, kArenaRows = 5 * kFrameTokens;
  const std::vector<std::int64_t> slots = {3, 0, 4};
  const std::size_t tokens = slots.size() * kFrameTokens;
  const std::vector<T> qkv = numbers<T>(tokens * 3 * kWidth, 3);
  const std::vector<T> weight_q = numbers<T>(kWidth, 4), weight_k = numbers<T>(kWidth, 5);
  std::vector<float> table(tokens * kHeadDim);
  for (std::size_t i = 0; i < table.size(); i += 2) {
    table[i] = std::cos(static_cast<float>(i)), table[i + 1] = std::sin(static_cast<float>(i));
  }
  const std::vector<T> before = numbers<T>(kHeads * kArenaRows * kHeadDim, 6);
  std::vector<T> queries(tokens * kWidth), keys = before, values = before;
  qkv_append(QkvAppend<T>{.qkv = qkv.data(),
                          .weight_q = weight_q.data(),
                          .weight_k = weight_k.data(),
                          .table = table.data(),
                          .queries = queries.data(),
                          .arena_keys = keys.data(),
                          .arena_values = values.data(),
                          .arena_rows = kArenaRows,
                          .row_stride = kHeadDim,
                          .head_stride = kArenaRows * kHeadDim,
                          .slots = slots,
                          .frame_tokens = kFrameTokens,
                          .heads = kHeads,
                          .head_dim = kHeadDim,
                          .eps = 1e-6f,
                          .rotate_keys = rotate_keys});
  std::vector<bool> written(kArenaRows);
  for (std::size_t token = 0; token < tokens; ++token) {
    const T* row = &qkv[token * 3 * kWidth];
    const std::size_t slot = static_cast<std::size_t>(slots[token / kFrameTokens]);
    const std::size_t place = slot * kFrameTokens + token % kFrameTokens;
    written[place] = true;
    for (std::size_t part = 0; part < 2; ++part) {
      const double scale = scale_of(row + part * kWidth, kWidth, 1e-6);
      const auto& weight = part == 0 ? weight_q : weight_k;
      for (std::size_t i = 0; i < kWidth; i += 2) {
        const std::size_t head = i / kHeadDim, feature = i % kHeadDim;
        const double a = widen(row[part * kWidth + i]) * scale * widen(weight[i]);
        const double b = widen(row[part * kWidth + i + 1]) * scale * widen(weight[i + 1]);
        const bool turned = part == 0 || rotate_keys;
        const double c = turned ? table[token * kHeadDim + feature] : 1;
        const double s = turned ? table[token * kHeadDim + feature + 1] : 0;
        const T* got = part == 0 ? &queries[token * kWidth + i]
                                 : &keys[(head * kArenaRows + place) * kHeadDim + feature];
        const double room = rounding<T>(std::abs(a) + std::abs(b));
        CHECK(std::abs(widen(got[0]) - (a * c - b * s)) <= room);
        CHECK(std::abs(widen(got[1]) - (a * s + b * c)) <= room);
      }
    }
    for (std::size_t i = 0; i < kWidth; ++i) {
      const std::size_t at = ((i / kHeadDim) * kArenaRows + place) * kHeadDim + i % kHeadDim;
      CHECK(widen(values[at]) == widen(row[2 * kWidth + i]));
    }
  }
  for (std::size_t at = 0; at < before.size(); ++at) {
    if (written[at / kHeadDim % kArenaRows]) continue;
    CHECK(widen(keys[at]) == widen(before[at]) && widen(values[at]) == widen(before[at]));
  }
}

void keeps_what_is_no_number() {
  std::vector<Bfloat16> x(16, Bfloat16{0x3F80}), out(16);
  x[5].bits = 0x7FFF;  // the largest of them, which rounding would turn into a zero
  rms_norm(x.data(), x.data(), 1e-6f, 1, 16, out.data());
  for (const Bfloat16 number : out) CHECK(std::isnan(widen(number)));
}

void refuses_what_does_not_fit() {
  std::vector<float> memory(4096);
  QkvAppend<float> step{.qkv = memory.data(),
                        .weight_q = memory.data(),
                        .weight_k = memory.data(),
                        .table = memory.data(),
                        .queries = memory.data(),
                        .arena_keys = memory.data(),
                        .arena_values = memory.data(),
                        .arena_rows = 8,
                        .row_stride = 16,
                        .head_stride = 128,
                        .slots = {0, 2},
                        .frame_tokens = 4,
                        .heads = 1,
                        .head_dim = 16,
                        .eps = 1e-6f,
                        .rotate_keys = true};
  CHECK_THROWS(qkv_append(step), Status::kConfig);
  step.slots = {-1};
  CHECK_THROWS(qkv_append(step), Status::kConfig);
  step.slots = {std::numeric_limits<std::int64_t>::max()};
  CHECK_THROWS(qkv_append(step), Status::kConfig);
  step.slots = {1}, step.head_dim = 24;
  CHECK_THROWS(qkv_append(step), Status::kConfig);
  std::vector<Bfloat16> row(17);
  CHECK_THROWS(rms_norm(row.data(), row.data(), 1e-6f, 1, 17, row.data()), Status::kConfig);
}

}  // namespace

int main() {
  norms_rows();
  for (const bool rotate_keys : {false, true}) {
    appends_a_chunk<float>(rotate_keys);
    appends_a_chunk<Bfloat16>(rotate_keys);
  }
  keeps_what_is_no_number();
  refuses_what_does_not_fit();
  return 0;
}
