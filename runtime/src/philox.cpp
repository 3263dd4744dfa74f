// Compiled with -ffp-contract=off: the polynomials below must round after every operation.
#include "shotstream/philox.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "shotstream/status.h"

namespace shotstream {
namespace {

constexpr std::uint32_t kMultiplier0 = 0xD2511F53u;
constexpr std::uint32_t kMultiplier1 = 0xCD9E8D57u;
constexpr std::uint32_t kWeyl0 = 0x9E3779B9u;
constexpr std::uint32_t kWeyl1 = 0xBB67AE85u;
constexpr int kRounds = 10;

// Blocks made side by side; the loops over lanes below vectorise.
constexpr std::size_t kLanes = 64;
constexpr std::size_t kBatch = 4 * kLanes;

std::uint32_t high_word(std::uint32_t a, std::uint32_t b) noexcept {
  return static_cast<std::uint32_t>((static_cast<std::uint64_t>(a) * b) >> 32);
}

template <class T>
struct Lanes {
  alignas(64) T row[4][kLanes];
};

// Fills `lanes` with the words of blocks [first_block, first_block + kLanes).
void make_blocks(const NoiseAddress& address, std::uint64_t first_block,
                 Lanes<std::uint32_t>& lanes) noexcept {
  for (std::size_t i = 0; i < kLanes; ++i) {
    const std::uint64_t block = first_block + i;
    lanes.row[0][i] = static_cast<std::uint32_t>(block);
    lanes.row[1][i] = static_cast<std::uint32_t>(block >> 32) | (address.step << 16);
    lanes.row[2][i] = address.chunk;
    lanes.row[3][i] = address.shot;
  }
  auto key0 = static_cast<std::uint32_t>(address.seed);
  auto key1 = static_cast<std::uint32_t>(address.seed >> 32);
  for (int round = 0; round < kRounds; ++round) {
    for (std::size_t i = 0; i < kLanes; ++i) {
      const std::uint32_t c0 = lanes.row[0][i];
      const std::uint32_t c2 = lanes.row[2][i];
      lanes.row[0][i] = high_word(kMultiplier1, c2) ^ lanes.row[1][i] ^ key0;
      lanes.row[2][i] = high_word(kMultiplier0, c0) ^ lanes.row[3][i] ^ key1;
      lanes.row[1][i] = kMultiplier1 * c2;
      lanes.row[3][i] = kMultiplier0 * c0;
    }
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
}

// Natural logarithm of u in [2^-33, 1]; relative error below 2e-7.
[[gnu::always_inline]] inline float log_unit(float u) noexcept {
  // Split u = m * 2^e with m in [sqrt(1/2), sqrt(2)).
  constexpr std::uint32_t kSqrtHalfBits = 0x3F3504F3u;
  const std::uint32_t shifted = std::bit_cast<std::uint32_t>(u) - kSqrtHalfBits;
  const auto exponent = static_cast<float>(static_cast<std::int32_t>(shifted) >> 23);
  const auto f = std::bit_cast<float>((shifted & 0x007FFFFFu) + kSqrtHalfBits) - 1.0f;
  // log(1 + f) = f - f^2 / 2 + f^3 P(f); P interpolates at the Chebyshev nodes of f's range.
  float p = -0.07902744f;
  p = p * f + 0.12622319f;
  p = p * f - 0.12998183f;
  p = p * f + 0.14214496f;
  p = p * f - 0.16641282f;
  p = p * f + 0.20001045f;
  p = p * f - 0.25000307f;
  p = p * f + 0.33333330f;
  const float square = f * f;
  return exponent * 0.69314718f + (f + (square * f * p - 0.5f * square));
}

// One pair of words to one pair of normals; inlined, so that the loops over lanes vectorise.
[[gnu::always_inline]] inline void box_muller(std::uint32_t a, std::uint32_t b, float& first,
                                              float& second) noexcept {
  const float u = static_cast<float>(a) * 0x1p-32f + 0x1p-33f;
  const float radius = std::sqrt(-2.0f * log_unit(u));
  // v = quarter / 2 + w with |w| <= 1/4, exactly: adding 1.5 * 2^23 rounds to the nearest integer.
  const float v = static_cast<float>(static_cast<std::int32_t>(b)) * 0x1p-31f;
  const float magic = v * 2.0f + 12582912.0f;
  const std::uint32_t quarter = std::bit_cast<std::uint32_t>(magic);
  const float w = v - (magic - 12582912.0f) * 0.5f;
  const float t = w * w;
  float s = -0.5890751f;
  s = s * t + 2.549767f;
  s = s * t - 5.167708f;
  s = s * t + 3.1415927f;
  const float sine = s * w;
  float c = 0.23132879f;
  c = c * t - 1.3350445f;
  c = c * t + 4.058707f;
  c = c * t - 4.934802f;
  c = c * t + 1.0f;
  const bool swap = (quarter & 1u) != 0;
  const float cosine_part = swap ? sine : c;
  const float sine_part = swap ? c : sine;
  const std::uint32_t cosine_sign = ((quarter + 1u) & 2u) << 30;
  const std::uint32_t sine_sign = (quarter & 2u) << 30;
  first = radius * std::bit_cast<float>(std::bit_cast<std::uint32_t>(cosine_part) ^ cosine_sign);
  second = radius * std::bit_cast<float>(std::bit_cast<std::uint32_t>(sine_part) ^ sine_sign);
}

void check_range(const NoiseAddress& address, std::uint64_t first, std::size_t count) {
  require(address.step < (1u << 16), "step", address.step, "0 to 65535");
  require(first <= kMaxElements && count <= kMaxElements - first, "offset",
          static_cast<long long>(first), "an element range that ends at or below 2^50");
}

// Makes batches of blocks over the range; convert(lanes, values) turns a batch of words into its
// four rows of values, and the part of them that lies in the range goes to `out` in element order.
template <class T, class Convert>
void fill(const NoiseAddress& address, std::uint64_t first, std::size_t count, T* out,
          Convert convert) {
  Lanes<std::uint32_t> words;
  Lanes<T> values;
  alignas(64) T batch[kBatch];
  std::uint64_t position = first;
  const std::uint64_t end = first + count;
  while (position < end) {
    const std::uint64_t block = position / 4;
    make_blocks(address, block, words);
    convert(words, values);
    for (std::size_t i = 0; i < kLanes; ++i) {
      for (std::size_t row = 0; row < 4; ++row) batch[4 * i + row] = values.row[row][i];
    }
    const auto skip = static_cast<std::size_t>(position - block * 4);
    const auto take =
        std::min<std::size_t>(kBatch - skip, static_cast<std::size_t>(end - position));
    std::copy_n(batch + skip, take, out);
    out += take;
    position += take;
  }
}

}  // namespace

std::array<std::uint32_t, 4> philox4x32_10(std::array<std::uint32_t, 4> counter,
                                           std::array<std::uint32_t, 2> key) noexcept {
  NoiseAddress address;
  address.seed = key[0] | (static_cast<std::uint64_t>(key[1]) << 32);
  address.shot = counter[3];
  address.chunk = counter[2];
  address.step = counter[1] >> 16;
  Lanes<std::uint32_t> lanes;
  make_blocks(address, counter[0] | (static_cast<std::uint64_t>(counter[1] & 0xFFFFu) << 32),
              lanes);
  return {lanes.row[0][0], lanes.row[1][0], lanes.row[2][0], lanes.row[3][0]};
}

void philox_uint32(const NoiseAddress& address, std::uint64_t first, std::size_t count,
                   std::uint32_t* out) {
  check_range(address, first, count);
  fill(address, first, count, out,
       [](const Lanes<std::uint32_t>& words, Lanes<std::uint32_t>& values) { values = words; });
}

void philox_normal(const NoiseAddress& address, std::uint64_t first, std::size_t count,
                   float* out) {
  check_range(address, first, count);
  fill(address, first, count, out, [](const Lanes<std::uint32_t>& words, Lanes<float>& values) {
    for (std::size_t pair = 0; pair < 4; pair += 2) {
      for (std::size_t i = 0; i < kLanes; ++i) {
        box_muller(words.row[pair][i], words.row[pair + 1][i], values.row[pair][i],
                   values.row[pair + 1][i]);
      }
    }
  });
}

}  // namespace shotstream
