// The small steps between a block's projections and its attentions, on a CPU: RMS norm of queries
// and keys, their rotation, and the write into the arena, in one pass over memory.
//
// Torch takes eight operations and as many passes over memory for a norm in bfloat16, and three
// more for a rotation. The maths is that of kernels/reference/qkv_append.py; all of it is float32,
// rounded once, when a number is stored. Sums are formed in sixteen lanes that are added pairwise,
// without fused multiply-add, so every CPU gives the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "shotstream/bfloat16.h"

namespace shotstream {

// Numbers that one step reads or writes at once; a head's width is a multiple of it.
inline constexpr std::size_t kLaneCount = 16;

// Writes x / sqrt(mean(x^2) + eps) * weight for each of `rows` rows of `width` numbers.
// `out` may be `x`.
void rms_norm(const Bfloat16* x, const Bfloat16* weight, float eps, std::size_t rows,
              std::size_t width, Bfloat16* out);

// A fused projection and where its parts go.
template <class T>
struct QkvAppend {
  const T* qkv;                     // [tokens, 3 * heads * head_dim]: queries | keys | values
  const T* weight_q;                // [heads * head_dim], factors of the queries' norm
  const T* weight_k;                // [heads * head_dim], of the keys' norm
  const float* table;               // [tokens, head_dim / 2] pairs (cosine, sine)
  T* queries;                       // [tokens, heads, head_dim], normalised and rotated
  T* arena_keys;                    // row r of head h begins at r * row_stride + h * head_stride
  T* arena_values;                  // likewise
  std::size_t arena_rows;           // rows of the arena
  std::size_t row_stride;           // in numbers
  std::size_t head_stride;          // in numbers
  std::vector<std::int64_t> slots;  // arena slot of each latent frame
  std::size_t frame_tokens;         // tokens, so rows of a slot, of a latent frame
  std::size_t heads;
  std::size_t head_dim;
  float eps;
  bool rotate_keys;  // store keys rotated
};

// Runs it. A slot outside the arena, or a head_dim that kLaneCount does not divide, is refused
// before anything is written.
template <class T>
void qkv_append(const QkvAppend<T>& step);

}  // namespace shotstream
