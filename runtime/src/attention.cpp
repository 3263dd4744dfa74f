#include "shotstream/attention.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "shotstream/status.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define SHOTSTREAM_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))
#define SHOTSTREAM_HAS_AVX512 1
// Arrays of registers stay in registers only where every index is a constant.
#define SHOTSTREAM_UNROLL _Pragma("GCC unroll 16")
#endif

namespace shotstream {

bool has_bfloat16_products() {
#ifdef SHOTSTREAM_HAS_AVX512
  return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

bool has_fast_bfloat16_products() {
#ifdef SHOTSTREAM_HAS_AVX512
  return has_bfloat16_products() && __builtin_cpu_is("amd");
#else
  return false;
#endif
}

namespace {

// Features of a head that are packed at once.
constexpr std::size_t kWidthStep = 32;

#ifdef SHOTSTREAM_HAS_AVX512
// Numbers of a register of float32; keys of a panel.
constexpr std::size_t kLanes = 16;
// Queries whose sums stay in registers, 4 registers each.
constexpr std::size_t kRows = 6;

std::size_t panels_of(std::size_t keys) { return (keys + kLanes - 1) / kLanes; }

// One head, its keys and values packed. The product of bfloat16 adds up two neighbours of a sum at
// once, so both are held as pairs, which are 32 bits. Keys behind the last one are zeros.
struct Head {
  const Bfloat16* q;
  const std::uint32_t* keys;    // panels of [width / 2, 16 keys]
  const std::uint32_t* values;  // [keys / 2, width]
  const float* bias;            // whole panels, or null
  Bfloat16* out;
  float scale;
  std::size_t panels;
  std::size_t last;  // keys of the last panel
  std::size_t width;
  std::size_t q_row;
  std::size_t out_row;
};

SHOTSTREAM_AVX512 inline void transpose(__m512i* rows) {
  __m512i a[kLanes];
  SHOTSTREAM_UNROLL
  for (std::size_t i = 0; i < kLanes; i += 2) {
    a[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  SHOTSTREAM_UNROLL
  for (std::size_t i = 0; i < kLanes; i += 4) {
    rows[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
  }
  // A quarter of a register holds one column of four rows now; quarters are brought together.
  SHOTSTREAM_UNROLL
  for (std::size_t i = 0; i < 4; ++i) {
    const __m512i even = _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0x88);
    const __m512i odd = _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0xDD);
    const __m512i later_even = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], 0x88);
    const __m512i later_odd = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], 0xDD);
    a[i] = _mm512_shuffle_i32x4(even, later_even, 0x88);
    a[4 + i] = _mm512_shuffle_i32x4(odd, later_odd, 0x88);
    a[8 + i] = _mm512_shuffle_i32x4(even, later_even, 0xDD);
    a[12 + i] = _mm512_shuffle_i32x4(odd, later_odd, 0xDD);
  }
  SHOTSTREAM_UNROLL
  for (std::size_t i = 0; i < kLanes; ++i) rows[i] = a[i];
}

SHOTSTREAM_AVX512 void pack_keys(const Bfloat16* keys, std::size_t count, std::size_t stride,
                                 std::size_t width, std::uint32_t* packed) {
  for (std::size_t first = 0; first < count; first += kLanes, packed += width / 2 * kLanes) {
    const std::size_t inside = std::min(kLanes, count - first);
    for (std::size_t feature = 0; feature < width; feature += kWidthStep) {
      __m512i rows[kLanes];
      SHOTSTREAM_UNROLL
      for (std::size_t i = 0; i < kLanes; ++i) {
        const Bfloat16* const key = keys + (first + i) * stride + feature;
        rows[i] = i < inside ? _mm512_loadu_si512(key) : _mm512_setzero_si512();
      }
      transpose(rows);
      SHOTSTREAM_UNROLL
      for (std::size_t i = 0; i < kLanes; ++i) {
        _mm512_storeu_si512(packed + (feature / 2 + i) * kLanes, rows[i]);
      }
    }
  }
}

SHOTSTREAM_AVX512 inline __m512i widen(const Bfloat16* from) {
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}

SHOTSTREAM_AVX512 void pack_values(const Bfloat16* values, std::size_t count, std::size_t stride,
                                   std::size_t width, std::uint32_t* packed) {
  const std::size_t padded = panels_of(count) * kLanes;
  for (std::size_t key = 0; key < padded; key += 2, packed += width) {
    for (std::size_t feature = 0; feature < width; feature += kLanes) {
      __m512i pair = _mm512_setzero_si512();
      if (key < count) pair = widen(values + key * stride + feature);
      if (key + 1 < count) {
        const __m512i second = widen(values + (key + 1) * stride + feature);
        pair = _mm512_or_si512(pair, _mm512_slli_epi32(second, 16));
      }
      _mm512_storeu_si512(packed + feature, pair);
    }
  }
}

// sums += a b for [rows, pairs] pairs of `a` and [pairs, 16 columns] pairs of `b`, whose registers
// of 16 columns lie `b_step` apart.
template <std::size_t rows, std::size_t columns>
SHOTSTREAM_AVX512 inline void multiply(const Bfloat16* a, std::size_t a_row, const std::uint32_t* b,
                                       std::size_t b_step, std::size_t b_pair, std::size_t pairs,
                                       __m512 (&sums)[rows][columns]) {
  SHOTSTREAM_UNROLL
  for (std::size_t row = 0; row < rows; ++row) {
    SHOTSTREAM_UNROLL
    for (std::size_t column = 0; column < columns; ++column) {
      sums[row][column] = _mm512_setzero_ps();
    }
  }
  for (std::size_t pair = 0; pair < pairs; ++pair, b += b_pair) {
    __m512i factors[columns];
    SHOTSTREAM_UNROLL
    for (std::size_t column = 0; column < columns; ++column) {
      factors[column] = _mm512_loadu_si512(b + column * b_step);
    }
    SHOTSTREAM_UNROLL
    for (std::size_t row = 0; row < rows; ++row) {
      std::int32_t both;
      std::memcpy(&both, a + row * a_row + 2 * pair, sizeof both);
      const __m512bh factor = (__m512bh)_mm512_set1_epi32(both);
      SHOTSTREAM_UNROLL
      for (std::size_t column = 0; column < columns; ++column) {
        sums[row][column] = _mm512_dpbf16_ps(sums[row][column], factor, (__m512bh)factors[column]);
      }
    }
  }
}

// Logits of some queries and panels, into rows of `stride` numbers.
template <std::size_t rows, std::size_t columns>
SHOTSTREAM_AVX512 inline void write_logits(const Head& head, const Bfloat16* q, std::size_t panel,
                                           float* logits, std::size_t stride) {
  __m512 sums[rows][columns];
  const std::size_t panel_pairs = head.width / 2 * kLanes;
  multiply(q, head.q_row, head.keys + panel * panel_pairs, panel_pairs, kLanes, head.width / 2,
           sums);
  const __m512 scale = _mm512_set1_ps(head.scale);
  SHOTSTREAM_UNROLL
  for (std::size_t column = 0; column < columns; ++column) {
    const std::size_t first = (panel + column) * kLanes;
    const __m512 bias =
        head.bias == nullptr ? _mm512_setzero_ps() : _mm512_loadu_ps(head.bias + first);
    SHOTSTREAM_UNROLL
    for (std::size_t row = 0; row < rows; ++row) {
      _mm512_storeu_ps(logits + row * stride + first,
                       _mm512_fmadd_ps(sums[row][column], scale, bias));
    }
  }
}

// e^x for x <= 0, to 2e-7 of itself: 2^f by its Taylor series for |f| <= 1/2, times 2^n.
SHOTSTREAM_AVX512 inline __m512 exponential(__m512 x) {
  const __m512 log2e = _mm512_set1_ps(1.44269504f);
  // Below, e^x is 0. The order of the arguments lets what is not a number through.
  x = _mm512_max_ps(_mm512_set1_ps(-150.0f), x);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, log2e), 0);
  const __m512 f = _mm512_fmsub_ps(x, log2e, n);
  __m512 power = _mm512_set1_ps(1.54035304e-4f);
  power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(1.33335581e-3f));
  power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(9.61812911e-3f));
  power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(5.55041087e-2f));
  power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(2.40226507e-1f));
  power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(6.93147181e-1f));
  power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(power, n);
}

// Writes e^(logit - largest logit) of a row, rounded, and returns one over their sum.
SHOTSTREAM_AVX512 float write_weights(const float* logits, std::size_t panels, std::size_t last,
                                      Bfloat16* weights) {
  const auto inside = static_cast<__mmask16>((1u << last) - 1);
  const std::size_t end = (panels - 1) * kLanes;
  const __m512 hidden = _mm512_set1_ps(-__builtin_inff());
  __m512 most = _mm512_mask_loadu_ps(hidden, inside, logits + end);
  for (std::size_t i = 0; i < end; i += kLanes) {
    most = _mm512_max_ps(most, _mm512_loadu_ps(logits + i));
  }
  const __m512 largest = _mm512_set1_ps(_mm512_reduce_max_ps(most));
  __m512 sum = _mm512_setzero_ps();
  for (std::size_t i = 0; i <= end; i += kLanes) {
    __m512 weight = exponential(_mm512_sub_ps(_mm512_loadu_ps(logits + i), largest));
    if (i == end) weight = _mm512_maskz_mov_ps(inside, weight);
    sum = _mm512_add_ps(sum, weight);
    const __m256bh rounded = _mm512_cvtneps_pbh(weight);
    std::memcpy(weights + i, &rounded, sizeof rounded);
  }
  return 1.0f / _mm512_reduce_add_ps(sum);
}

template <std::size_t rows, std::size_t columns>
SHOTSTREAM_AVX512 inline void write_result(const Head& head, const Bfloat16* weights,
                                           const float* factors, std::size_t feature,
                                           Bfloat16* out) {
  __m512 sums[rows][columns];
  const std::size_t padded = head.panels * kLanes;
  multiply(weights, padded, head.values + feature, kLanes, head.width, padded / 2, sums);
  SHOTSTREAM_UNROLL
  for (std::size_t row = 0; row < rows; ++row) {
    SHOTSTREAM_UNROLL
    for (std::size_t column = 0; column < columns; ++column) {
      const __m512 result = _mm512_mul_ps(sums[row][column], _mm512_set1_ps(factors[row]));
      const __m256bh rounded = _mm512_cvtneps_pbh(result);
      std::memcpy(out + row * head.out_row + feature + column * kLanes, &rounded, sizeof rounded);
    }
  }
}

template <std::size_t rows>
SHOTSTREAM_AVX512 void attend_rows(const Head& head, std::size_t first, float* logits,
                                   Bfloat16* weights) {
  const std::size_t padded = head.panels * kLanes;
  const Bfloat16* const q = head.q + first * head.q_row;
  std::size_t panel = 0;
  for (; panel + 4 <= head.panels; panel += 4) {
    write_logits<rows, 4>(head, q, panel, logits, padded);
  }
  for (; panel < head.panels; ++panel) write_logits<rows, 1>(head, q, panel, logits, padded);
  float factors[rows];
  for (std::size_t row = 0; row < rows; ++row) {
    factors[row] =
        write_weights(logits + row * padded, head.panels, head.last, weights + row * padded);
  }
  Bfloat16* const out = head.out + first * head.out_row;
  std::size_t feature = 0;
  for (; feature + 4 * kLanes <= head.width; feature += 4 * kLanes) {
    write_result<rows, 4>(head, weights, factors, feature, out);
  }
  for (; feature < head.width; feature += 2 * kLanes) {
    write_result<rows, 2>(head, weights, factors, feature, out);
  }
}

void attend_head(const Head& head, std::size_t rows, float* logits, Bfloat16* weights) {
  std::size_t first = 0;
  for (; first + kRows <= rows; first += kRows) attend_rows<kRows>(head, first, logits, weights);
  switch (rows - first) {
    case 5:
      return attend_rows<5>(head, first, logits, weights);
    case 4:
      return attend_rows<4>(head, first, logits, weights);
    case 3:
      return attend_rows<3>(head, first, logits, weights);
    case 2:
      return attend_rows<2>(head, first, logits, weights);
    case 1:
      return attend_rows<1>(head, first, logits, weights);
    default:
      return;
  }
}

// Memory of this thread: what packed keys and values, logits and weights take.
struct Memory {
  std::vector<std::uint32_t> keys, values;
  std::vector<float> logits, bias;
  std::vector<Bfloat16> weights;

  void fit(std::size_t padded, std::size_t width) {
    grow(keys, padded * width / 2);
    grow(values, padded * width / 2);
    grow(logits, kRows * padded);
    grow(weights, kRows * padded);
    grow(bias, padded);
  }

  template <class T>
  static void grow(std::vector<T>& memory, std::size_t numbers) {
    if (memory.size() < numbers) memory.resize(numbers);
  }
};
#endif

}  // namespace

void attend(const HeadsAttention& given) {
  if (!has_bfloat16_products()) {
    throw Error(Status::kBackendUnavailable,
                "attend: got a CPU without AVX-512's products of bfloat16, wanted one with them; "
                "use torch's attention");
  }
  require(given.width > 0 && given.width % kWidthStep == 0, "width",
          static_cast<long long>(given.width), "a multiple of 32");
  require(given.keys > 0, "keys", static_cast<long long>(given.keys), "at least one");
#ifdef SHOTSTREAM_HAS_AVX512
  thread_local Memory memory;
  const std::size_t panels = panels_of(given.keys);
  memory.fit(panels * kLanes, given.width);
  if (given.bias != nullptr) std::copy_n(given.bias, given.keys, memory.bias.data());
  for (std::size_t index = 0; index < given.heads; ++index) {
    pack_keys(given.k.first + index * given.k.head, given.keys, given.k.row, given.width,
              memory.keys.data());
    pack_values(given.v.first + index * given.v.head, given.keys, given.v.row, given.width,
                memory.values.data());
    const Head head{
        .q = given.q.first + index * given.q.head,
        .keys = memory.keys.data(),
        .values = memory.values.data(),
        .bias = given.bias == nullptr ? nullptr : memory.bias.data(),
        .out = given.out.first + index * given.out.head,
        .scale = given.scale,
        .panels = panels,
        .last = given.keys - (panels - 1) * kLanes,
        .width = given.width,
        .q_row = given.q.row,
        .out_row = given.out.row,
    };
    attend_head(head, given.rows, memory.logits.data(), memory.weights.data());
  }
#endif
}

}  // namespace shotstream
