#include <cmath>
#include <random>
#include <vector>

#include "check.h"
#include "shotstream/product.h"
#include "shotstream/status.h"

using shotstream::has_products;
using shotstream::HeadProduct;
using shotstream::LinearProduct;
using shotstream::multiply;
using shotstream::multiply_keys;
using shotstream::multiply_values;
using shotstream::pack_weight;
using shotstream::packed_numbers;
using shotstream::Status;

namespace {

std::vector<float> numbers(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> made(count);
  for (float& number : made) number = normal(random);
  return made;
}

// One number of a product, in the order that product.h promises.
float sum_of(const float* a, std::size_t a_step, const float* b, std::size_t b_step,
             std::size_t inner) {
  float sum = 0;
  for (std::size_t first = 0; first < inner; first += 1024) {
    float run = 0;
    for (std::size_t i = first; i < inner && i < first + 1024; ++i) {
      run = std::fma(a[i * a_step], b[i * b_step], run);
    }
    sum = first == 0 ? run : sum + run;
  }
  return sum;
}

void multiplies_layers(std::size_t rows, std::size_t inner, std::size_t columns) {
  const std::vector<float> x = numbers(rows * inner, 1), weight = numbers(columns * inner, 2),
                           bias = numbers(columns, 3);
  std::vector<float> packed(packed_numbers(columns, inner));
  pack_weight(weight.data(), columns, inner, packed.data());
  for (const bool biased : {false, true}) {
    std::vector<float> out(rows * columns + 1, -7);
    multiply(LinearProduct{.x = x.data(),
                           .packed = packed.data(),
                           .bias = biased ? bias.data() : nullptr,
                           .out = out.data(),
                           .rows = rows,
                           .inner = inner,
                           .columns = columns});
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t column = 0; column < columns; ++column) {
        const float sum = sum_of(&x[row * inner], 1, &weight[column * inner], 1, inner);
        CHECK(out[row * columns + column] == (biased ? sum + bias[column] : sum));
      }
    }
    CHECK(out.back() == -7);
  }
}

void multiplies_heads(std::size_t rows, std::size_t keys) {
  constexpr std::size_t kWidth = 48, kStride = 100;
  const std::vector<float> queries = numbers(rows * kStride, 4), arena = numbers(keys * kStride, 5),
                           weights = numbers(rows * keys, 6);
  const std::size_t out_stride = keys + 3;
  std::vector<float> logits(rows * out_stride, -7), out(rows * kStride, -7);
  multiply_keys(HeadProduct{.x = queries.data(),
                            .arena = arena.data(),
                            .out = logits.data(),
                            .rows = rows,
                            .keys = keys,
                            .width = kWidth,
                            .x_stride = kStride,
                            .arena_stride = kStride,
                            .out_stride = out_stride});
  multiply_values(HeadProduct{.x = weights.data(),
                              .arena = arena.data(),
                              .out = out.data(),
                              .rows = rows,
                              .keys = keys,
                              .width = kWidth,
                              .x_stride = keys,
                              .arena_stride = kStride,
                              .out_stride = kStride});
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t key = 0; key < out_stride; ++key) {
      const float wanted =
          key < keys ? sum_of(&queries[row * kStride], 1, &arena[key * kStride], 1, kWidth) : -7;
      CHECK(logits[row * out_stride + key] == wanted);
    }
    for (std::size_t i = 0; i < kStride; ++i) {
      const float wanted =
          i < kWidth ? sum_of(&weights[row * keys], 1, &arena[i], kStride, keys) : -7;
      CHECK(out[row * kStride + i] == wanted);
    }
  }
}

void refuses_what_does_not_fit() {
  std::vector<float> memory(1024);
  const HeadProduct head{.x = memory.data(),
                         .arena = memory.data(),
                         .out = memory.data(),
                         .rows = 1,
                         .keys = 1,
                         .width = 24,
                         .x_stride = 24,
                         .arena_stride = 24,
                         .out_stride = 24};
  CHECK_THROWS(multiply_keys(head), Status::kConfig);
  CHECK_THROWS(multiply_values(head), Status::kConfig);
}

void says_so_without_avx2() {
  CHECK_THROWS(multiply(LinearProduct{}), Status::kBackendUnavailable);
  CHECK_THROWS(multiply_keys(HeadProduct{}), Status::kBackendUnavailable);
}

}  // namespace

int main() {
  if (!has_products()) {
    says_so_without_avx2();
    return 0;
  }
  for (const std::size_t rows : {1, 6, 17}) {
    for (const std::size_t inner : {1, 64, 256, 300, 1024, 1100, 2100}) {
      for (const std::size_t columns : {1, 16, 40}) multiplies_layers(rows, inner, columns);
    }
    for (const std::size_t keys : {1, 16, 29, 256, 1030, 2100}) multiplies_heads(rows, keys);
  }
  refuses_what_does_not_fit();
  return 0;
}
