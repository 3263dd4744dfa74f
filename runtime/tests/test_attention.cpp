#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "shotstream/attention.h"
#include "shotstream/status.h"

using shotstream::attend;
using shotstream::Bfloat16;
using shotstream::has_bfloat16_products;
using shotstream::HeadsAttention;
using shotstream::Status;

namespace {

float wide(Bfloat16 number) {
  const std::uint32_t bits = static_cast<std::uint32_t>(number.bits) << 16;
  float made;
  std::memcpy(&made, &bits, sizeof made);
  return made;
}

std::vector<Bfloat16> numbers(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<Bfloat16> made(count);
  for (Bfloat16& number : made) {
    const float drawn = normal(random);
    std::uint32_t bits;
    std::memcpy(&bits, &drawn, sizeof bits);
    number.bits = static_cast<std::uint16_t>(bits >> 16);
  }
  return made;
}

constexpr std::size_t kHeads = 2;

// Keys head by head, as an arena has them; queries and results token by token.
HeadsAttention attention(std::size_t rows, std::size_t keys, std::size_t width) {
  HeadsAttention made{};
  made.rows = rows, made.keys = keys, made.heads = kHeads, made.width = width;
  made.scale = 0.2f;
  made.q.row = made.out.row = kHeads * width, made.q.head = made.out.head = width;
  made.k.row = made.v.row = width, made.k.head = made.v.head = keys * width;
  return made;
}

// One number of a result, in double.
double result(const HeadsAttention& given, std::size_t row, std::size_t head, std::size_t feature) {
  std::vector<double> logits(given.keys);
  double most = -std::numeric_limits<double>::infinity();
  for (std::size_t key = 0; key < given.keys; ++key) {
    double sum = 0;
    for (std::size_t i = 0; i < given.width; ++i) {
      sum += static_cast<double>(wide(given.q.first[row * given.q.row + head * given.q.head + i])) *
             static_cast<double>(wide(given.k.first[key * given.k.row + head * given.k.head + i]));
    }
    logits[key] = sum * static_cast<double>(given.scale) +
                  (given.bias == nullptr ? 0.0 : static_cast<double>(given.bias[key]));
    most = std::max(most, logits[key]);
  }
  double sum = 0, weights = 0;
  for (std::size_t key = 0; key < given.keys; ++key) {
    const double weight = std::exp(logits[key] - most);
    weights += weight;
    sum += weight * static_cast<double>(
                        wide(given.v.first[key * given.v.row + head * given.v.head + feature]));
  }
  return sum / weights;
}

void attends(std::size_t rows, std::size_t keys, std::size_t width, bool biased) {
  HeadsAttention given = attention(rows, keys, width);
  const std::size_t query_numbers = rows * kHeads * width, key_numbers = keys * kHeads * width;
  const std::vector<Bfloat16> q = numbers(query_numbers, 1), k = numbers(key_numbers, 2),
                              v = numbers(key_numbers, 3);
  std::vector<float> bias(keys, 0.0f);
  bias.back() = keys > 1 ? -std::numeric_limits<float>::infinity() : 1.0f;
  std::vector<Bfloat16> out(query_numbers + 1, Bfloat16{7});
  given.q.first = q.data(), given.k.first = k.data(), given.v.first = v.data(),
  given.out.first = out.data();
  given.bias = biased ? bias.data() : nullptr;
  attend(given);
  CHECK(out.back().bits == 7);
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t head = 0; head < kHeads; ++head) {
      for (std::size_t feature = 0; feature < width; ++feature) {
        const double got =
            static_cast<double>(wide(out[row * given.out.row + head * given.out.head + feature]));
        const double wanted = result(given, row, head, feature);
        CHECK(std::abs(got - wanted) <= 0.004 + 0.01 * std::abs(wanted));
      }
    }
  }
}

void a_row_does_not_depend_on_those_beside_it() {
  constexpr std::size_t kRows = 13, kKeys = 70, kWidth = 64;
  HeadsAttention whole = attention(kRows, kKeys, kWidth);
  const std::vector<Bfloat16> q = numbers(kRows * kHeads * kWidth, 4),
                              k = numbers(kKeys * kHeads * kWidth, 5),
                              v = numbers(kKeys * kHeads * kWidth, 6);
  std::vector<Bfloat16> out(q.size()), parts(q.size());
  whole.q.first = q.data(), whole.k.first = k.data(), whole.v.first = v.data(),
  whole.out.first = out.data();
  attend(whole);
  for (std::size_t row = 0; row < kRows; ++row) {
    HeadsAttention one = whole;
    one.rows = 1, one.q.first += row * one.q.row, one.out.first = parts.data() + row * one.out.row;
    attend(one);
  }
  CHECK(std::memcmp(out.data(), parts.data(), out.size() * sizeof(Bfloat16)) == 0);
}

void refuses_what_does_not_fit() {
  CHECK_THROWS(attend(attention(1, 1, 48)), Status::kConfig);
  CHECK_THROWS(attend(attention(1, 0, 64)), Status::kConfig);
}

}  // namespace

int main() {
  if (!has_bfloat16_products()) {
    CHECK_THROWS(attend(attention(1, 1, 64)), Status::kBackendUnavailable);
    return 0;
  }
  for (const std::size_t rows : {1, 2, 4, 5, 6, 15}) {
    for (const std::size_t keys : {1, 16, 29, 64, 97}) {
      for (const std::size_t width : {32, 64, 96, 128}) {
        attends(rows, keys, width, false);
        attends(rows, keys, width, true);
      }
    }
  }
  attends(7, 17, 160, true);
  attends(7, 17, 256, true);
  a_row_does_not_depend_on_those_beside_it();
  refuses_what_does_not_fit();
  return 0;
}
