// Compiled with -ffp-contract=off, so that every CPU rounds alike.
#include "shotstream/qkv_append.h"

#include <cmath>
#include <cstring>

#include "shotstream/status.h"

// One form for each width of a CPU's registers; the loader takes the widest that the CPU has. A
// sanitizer must not be entered before it is set up, which choosing a form would do.
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__SANITIZE_ADDRESS__)
#define SHOTSTREAM_FORMS \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SHOTSTREAM_FORMS
#endif
#define SHOTSTREAM_INLINE [[gnu::always_inline]] inline

namespace shotstream {
namespace {

// Vectors of the compiler's: it makes one, two or four registers of each.
using Floats = float __attribute__((vector_size(4 * kLaneCount)));
using Words = std::uint32_t __attribute__((vector_size(4 * kLaneCount)));
using Halves = std::uint16_t __attribute__((vector_size(2 * kLaneCount)));

SHOTSTREAM_INLINE void load(const float* from, Floats& to) { std::memcpy(&to, from, sizeof to); }

SHOTSTREAM_INLINE void load(const Bfloat16* from, Floats& to) {
  Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  const Words words = __builtin_convertvector(halves, Words) << 16;
  std::memcpy(&to, &words, sizeof to);
}

SHOTSTREAM_INLINE void store(const Floats& from, float* to) { std::memcpy(to, &from, sizeof from); }

// Rounds to the nearest, ties to even; not-a-number stays one.
SHOTSTREAM_INLINE void store(const Floats& from, Bfloat16* to) {
  Words words;
  std::memcpy(&words, &from, sizeof words);
  const Words rounded = (words + 0x7FFFu + ((words >> 16) & 1u)) >> 16;
  const Words quiet = (words >> 16) | 0x40u;
  const Halves halves = __builtin_convertvector(from == from ? rounded : quiet, Halves);
  std::memcpy(to, &halves, sizeof halves);
}

// 1 / sqrt(mean(x^2) + eps) of a row.
template <class T>
SHOTSTREAM_INLINE float inverse_rms(const T* x, std::size_t width, float eps) {
  Floats sums = {};
  for (std::size_t i = 0; i < width; i += kLaneCount) {
    Floats value;
    load(x + i, value);
    sums += value * value;
  }
  sums += __builtin_shufflevector(sums, sums, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  sums += __builtin_shufflevector(sums, sums, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  sums += __builtin_shufflevector(sums, sums, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  sums += __builtin_shufflevector(sums, sums, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
  return 1.0f / std::sqrt(sums[0] / static_cast<float>(width) + eps);
}

template <class T>
SHOTSTREAM_INLINE void normalised(const T* x, const T* weight, float scale, Floats& to) {
  Floats factor;
  load(x, to);
  load(weight, factor);
  to = to * scale * factor;
}

// Turns pairs (a, b) by (c, s): (a c - b s, a s + b c).
SHOTSTREAM_INLINE void rotate(const float* table, Floats& pairs) {
  Floats turn;
  load(table, turn);
  const Floats cosines =
      __builtin_shufflevector(turn, turn, 0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14);
  const Floats sines =
      __builtin_shufflevector(turn, turn, 1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 13, 13, 15, 15);
  const Floats swapped =
      __builtin_shufflevector(pairs, pairs, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
  constexpr Floats kSigns = {-1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1};
  pairs = pairs * cosines + swapped * sines * kSigns;
}

// Normalises the heads of one token, rotates them, and stores head h at out + h * head_stride.
template <class T>
SHOTSTREAM_INLINE void place_heads(const QkvAppend<T>& step, const T* x, const T* weight,
                                   const float* table, T* out, std::size_t head_stride) {
  const std::size_t width = step.heads * step.head_dim;
  const float scale = inverse_rms(x, width, step.eps);
  for (std::size_t head = 0; head < step.heads; ++head) {
    const std::size_t first = head * step.head_dim;
    for (std::size_t i = 0; i < step.head_dim; i += kLaneCount) {
      Floats value;
      normalised(x + first + i, weight + first + i, scale, value);
      if (table != nullptr) rotate(table + i, value);
      store(value, out + head * head_stride + i);
    }
  }
}

template <class T>
SHOTSTREAM_INLINE void append_tokens(const QkvAppend<T>& step) {
  const std::size_t width = step.heads * step.head_dim;
  const T* x = step.qkv;
  const float* table = step.table;
  T* queries = step.queries;
  for (const std::int64_t slot : step.slots) {
    for (std::size_t token = 0; token < step.frame_tokens; ++token) {
      const std::size_t row = static_cast<std::size_t>(slot) * step.frame_tokens + token;
      T* keys = step.arena_keys + row * step.row_stride;
      T* values = step.arena_values + row * step.row_stride;
      place_heads(step, x, step.weight_q, table, queries, step.head_dim);
      place_heads(step, x + width, step.weight_k, step.rotate_keys ? table : nullptr, keys,
                  step.head_stride);
      for (std::size_t head = 0; head < step.heads; ++head) {
        std::memcpy(values + head * step.head_stride, x + 2 * width + head * step.head_dim,
                    step.head_dim * sizeof(T));
      }
      x += 3 * width;
      table += step.head_dim;
      queries += width;
    }
  }
}

SHOTSTREAM_FORMS void norm_rows(const Bfloat16* x, const Bfloat16* weight, float eps,
                                std::size_t rows, std::size_t width, Bfloat16* out) {
  for (std::size_t row = 0; row < rows; ++row, x += width, out += width) {
    const float scale = inverse_rms(x, width, eps);
    for (std::size_t i = 0; i < width; i += kLaneCount) {
      Floats value;
      normalised(x + i, weight + i, scale, value);
      store(value, out + i);
    }
  }
}

SHOTSTREAM_FORMS void append_float(const QkvAppend<float>& step) { append_tokens(step); }

SHOTSTREAM_FORMS void append_bfloat16(const QkvAppend<Bfloat16>& step) { append_tokens(step); }

template <class T>
void check(const QkvAppend<T>& step) {
  require(step.head_dim > 0 && step.head_dim % kLaneCount == 0, "head_dim",
          static_cast<long long>(step.head_dim), "a multiple of 16");
  require(step.frame_tokens > 0, "frame_tokens", 0, "at least 1");
  const auto slots = static_cast<std::int64_t>(step.arena_rows / step.frame_tokens);
  for (const std::int64_t slot : step.slots) {
    require(slot >= 0 && slot < slots, "slot", slot, "one that the arena has");
  }
}

}  // namespace

void rms_norm(const Bfloat16* x, const Bfloat16* weight, float eps, std::size_t rows,
              std::size_t width, Bfloat16* out) {
  require(width > 0 && width % kLaneCount == 0, "width", static_cast<long long>(width),
          "a multiple of 16");
  norm_rows(x, weight, eps, rows, width, out);
}

template <>
void qkv_append(const QkvAppend<float>& step) {
  check(step);
  append_float(step);
}

template <>
void qkv_append(const QkvAppend<Bfloat16>& step) {
  check(step);
  append_bfloat16(step);
}

}  // namespace shotstream
