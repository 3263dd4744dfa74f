#include <cmath>
#include <random>
#include <vector>

#include "check.h"
#include "shotstream/product.h"
#include "shotstream/status.h"

using shotstream::has_products;
using shotstream::HeadsProduct;
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
  constexpr std::size_t kHeads = 2, kWidth = 48, kStride = 100;
  const std::vector<float> queries = numbers(rows * kStride, 4), arena = numbers(keys * kStride, 5),
                           weights = numbers(kHeads * rows * keys, 6);
  const std::size_t out_row = keys + 3, out_head = rows * out_row;
  std::vector<float> logits(kHeads * out_head, -7), out(rows * kStride, -7);
  HeadsProduct product{};
  product.heads = kHeads, product.rows = rows, product.keys = keys, product.width = kWidth;
  product.arena = {arena.data(), kStride, kWidth};
  product.x = {queries.data(), kStride, kWidth}, product.out = {logits.data(), out_row, out_head};
  multiply_keys(product);
  product.x = {weights.data(), keys, rows * keys}, product.out = {out.data(), kStride, kWidth};
  multiply_values(product);
  for (std::size_t head = 0; head < kHeads; ++head) {
    const float* const own = &arena[head * kWidth];
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t key = 0; key < out_row; ++key) {
        const float wanted = key < keys ? sum_of(&queries[row * kStride + head * kWidth], 1,
                                                 own + key * kStride, 1, kWidth)
                                        : -7;
        CHECK(logits[head * out_head + row * out_row + key] == wanted);
      }
      for (std::size_t i = 0; i < kWidth; ++i) {
        CHECK(out[row * kStride + head * kWidth + i] ==
              sum_of(&weights[(head * rows + row) * keys], 1, own + i, kStride, keys));
      }
    }
  }
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t i = kHeads * kWidth; i < kStride; ++i) CHECK(out[row * kStride + i] == -7);
  }
}

void refuses_what_does_not_fit() {
  std::vector<float> memory(1024);
  HeadsProduct product{};
  product.heads = product.rows = product.keys = 1, product.width = 24;
  product.x = product.arena = {memory.data(), 24, 24}, product.out = {memory.data(), 24, 24};
  CHECK_THROWS(multiply_keys(product), Status::kConfig);
  CHECK_THROWS(multiply_values(product), Status::kConfig);
}

void says_so_without_avx2() {
  CHECK_THROWS(multiply(LinearProduct{}), Status::kBackendUnavailable);
  CHECK_THROWS(multiply_keys(HeadsProduct{}), Status::kBackendUnavailable);
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
