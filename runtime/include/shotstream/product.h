// Products of float32 matrices on a CPU with AVX2: linear layers, and the two of attention.
//
// Bits are those of oneDNN's products on such a CPU: every sum is formed number by number with
// fused multiply-add, from zero, in runs of 1024, and the sums of the runs are added in order; then
// comes the bias. So which of the two computes a product, and how its rows are divided, is not seen
// in the result.
#pragma once

#include <cstddef>
#include <cstdint>

#include "shotstream/heads.h"

namespace shotstream {

// Columns of a panel, the part of a matrix whose products are formed at once.
inline constexpr std::size_t kPanelColumns = 16;

// Whether this CPU runs them: AVX2 and FMA.
bool has_products();

// Numbers of a packed weight of [columns, inner]: whole panels.
std::size_t packed_numbers(std::size_t columns, std::size_t inner);

// Packs a weight [columns, inner], contiguous, into panels [inner, 16], the last one filled up with
// zeros.
void pack_weight(const float* weight, std::size_t columns, std::size_t inner, float* packed);

// out[rows, columns] = x[rows, inner] * weight^T + bias. Rows of x and out are contiguous, and so
// are the matrices.
struct LinearProduct {
  const float* x;
  const float* packed;  // from pack_weight
  const float* bias;    // [columns], or null
  float* out;
  std::size_t rows;
  std::size_t inner;
  std::size_t columns;
};

void multiply(const LinearProduct& product);

// Attention before and behind its softmax, for all heads. Keys and values have as many features as
// queries.
struct HeadsProduct {
  Heads<const float> x;      // queries [rows, width], or weights [rows, keys]
  Heads<const float> arena;  // keys or values [keys, width]
  Heads<float> out;          // logits [rows, keys], or the result [rows, width]
  std::size_t heads;
  std::size_t rows;
  std::size_t keys;
  std::size_t width;  // features of a head, a multiple of 16
};

void multiply_keys(const HeadsProduct& product);
void multiply_values(const HeadsProduct& product);

}  // namespace shotstream
