// Attention of bfloat16 on a CPU with AVX-512's products of bfloat16: all heads in one call.
//
// Logits, softmax and sums are float32; weights are rounded to bfloat16 in front of the product
// with the values. A row's result depends on its own query alone, not on the rows beside it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "shotstream/bfloat16.h"
#include "shotstream/heads.h"

namespace shotstream {

// Whether this CPU runs it: AVX-512 with products of bfloat16.
bool has_bfloat16_products();

// Whether those products are twice as fast as float32's. They are on AMD's CPUs; Intel's form them
// in one port where they have two for float32, so there they win nothing.
bool has_fast_bfloat16_products();

// out = softmax(scale * q k^T + bias) v for every head.
struct HeadsAttention {
  Heads<const Bfloat16> q;  // [rows, width]
  Heads<const Bfloat16> k;  // [keys, width]
  Heads<const Bfloat16> v;  // like k
  const float* bias;        // [keys], or null
  Heads<Bfloat16> out;      // like q
  float scale;
  std::size_t rows;
  std::size_t keys;
  std::size_t heads;
  std::size_t width;  // a multiple of 32
};

void attend(const HeadsAttention& attention);

}  // namespace shotstream
