#include "shotstream/product.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "shotstream/status.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define SHOTSTREAM_AVX2 __attribute__((target("avx2,fma")))
#define SHOTSTREAM_HAS_AVX2 1
// Arrays of registers stay in registers only where every index is a constant.
#define SHOTSTREAM_UNROLL _Pragma("GCC unroll 8")
#endif

namespace shotstream {

bool has_products() {
#ifdef SHOTSTREAM_HAS_AVX2
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

std::size_t packed_numbers(std::size_t columns, std::size_t inner) {
  return (columns + kPanelColumns - 1) / kPanelColumns * kPanelColumns * inner;
}

void pack_weight(const float* weight, std::size_t columns, std::size_t inner, float* packed) {
  for (std::size_t first = 0; first < columns; first += kPanelColumns) {
    for (std::size_t i = 0; i < inner; ++i, packed += kPanelColumns) {
      for (std::size_t column = 0; column < kPanelColumns; ++column) {
        const bool inside = first + column < columns;
        packed[column] = inside ? weight[(first + column) * inner + i] : 0.0f;
      }
    }
  }
}

namespace {

void require_products() {
  if (has_products()) return;
  throw Error(Status::kBackendUnavailable,
              "product: got a CPU without AVX2, wanted one with it; use oneDNN's products");
}

void require_width(std::size_t width) {
  require(width > 0 && width % kPanelColumns == 0, "width", static_cast<long long>(width),
          "a multiple of 16");
}

#ifdef SHOTSTREAM_HAS_AVX2
// Numbers of a sum that are added up before the sum goes on from zero; oneDNN's.
constexpr std::size_t kRun = 1024;
// Numbers whose panel stays in the first-level cache: 16 KB. A divisor of kRun.
constexpr std::size_t kDepth = 256;
// Rows whose sums stay in registers.
constexpr std::size_t kRows = 6;

// A panel's part in one run of a sum: rows of x times [depth, 16] numbers.
struct Tile {
  const float* x;
  const float* panel;
  const float* bias;  // 16 numbers added at the very end, or null
  float* out;
  std::size_t x_stride;
  std::size_t panel_stride;
  std::size_t out_stride;
  std::size_t depth;
  bool resumes;  // goes on with the sums that `out` has
};

template <std::size_t rows>
SHOTSTREAM_AVX2 inline void multiply_tile(const Tile& tile) {
  __m256 low[rows], high[rows];
  SHOTSTREAM_UNROLL
  for (std::size_t row = 0; row < rows; ++row) {
    low[row] = _mm256_setzero_ps(), high[row] = _mm256_setzero_ps();
    if (tile.resumes) {
      low[row] = _mm256_loadu_ps(tile.out + row * tile.out_stride);
      high[row] = _mm256_loadu_ps(tile.out + row * tile.out_stride + 8);
    }
  }
  const float* x = tile.x;
  const float* panel = tile.panel;
  for (std::size_t i = 0; i < tile.depth; ++i, ++x, panel += tile.panel_stride) {
    const __m256 first = _mm256_loadu_ps(panel), second = _mm256_loadu_ps(panel + 8);
    SHOTSTREAM_UNROLL
    for (std::size_t row = 0; row < rows; ++row) {
      const __m256 factor = _mm256_broadcast_ss(x + row * tile.x_stride);
      low[row] = _mm256_fmadd_ps(factor, first, low[row]);
      high[row] = _mm256_fmadd_ps(factor, second, high[row]);
    }
  }
  SHOTSTREAM_UNROLL
  for (std::size_t row = 0; row < rows; ++row) {
    if (tile.bias != nullptr) {
      low[row] = _mm256_add_ps(low[row], _mm256_loadu_ps(tile.bias));
      high[row] = _mm256_add_ps(high[row], _mm256_loadu_ps(tile.bias + 8));
    }
    _mm256_storeu_ps(tile.out + row * tile.out_stride, low[row]);
    _mm256_storeu_ps(tile.out + row * tile.out_stride + 8, high[row]);
  }
}

// All rows of x, six at a time, and the last ones.
SHOTSTREAM_AVX2 void multiply_rows(Tile tile, std::size_t rows) {
  while (rows > 0) {
    const std::size_t now = std::min(rows, kRows);
    switch (now) {
      case 6:
        multiply_tile<6>(tile);
        break;
      case 5:
        multiply_tile<5>(tile);
        break;
      case 4:
        multiply_tile<4>(tile);
        break;
      case 3:
        multiply_tile<3>(tile);
        break;
      case 2:
        multiply_tile<2>(tile);
        break;
      default:
        multiply_tile<1>(tile);
    }
    tile.x += now * tile.x_stride, tile.out += now * tile.out_stride, rows -= now;
  }
}

// Adds the sums of a run to those before it.
void add_run(const float* run, float* out, std::size_t rows, std::size_t stride) {
  for (std::size_t row = 0; row < rows; ++row, run += kPanelColumns, out += stride) {
    for (std::size_t column = 0; column < kPanelColumns; ++column) out[column] += run[column];
  }
}

// Copies 16 keys of `width` features into a panel [width, 16]; those that are missing are zeros.
SHOTSTREAM_AVX2 void pack_keys(const float* keys, std::size_t count, std::size_t stride,
                               std::size_t width, float* panel) {
  static const float kZeros[8] = {};
  for (std::size_t half = 0; half < kPanelColumns; half += 8) {
    const float* row[8];
    for (std::size_t i = 0; i < 8; ++i) {
      row[i] = half + i < count ? keys + (half + i) * stride : nullptr;
    }
    for (std::size_t first = 0; first < width; first += 8) {
      __m256 a[8], b[8];
      for (std::size_t i = 0; i < 8; ++i) {
        a[i] = _mm256_loadu_ps(row[i] == nullptr ? kZeros : row[i] + first);
      }
      for (std::size_t i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]), b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
      }
      for (std::size_t i = 0; i < 8; i += 4) {
        a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
        a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xEE);
        a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
        a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xEE);
      }
      for (std::size_t i = 0; i < 4; ++i) {
        float* to = panel + (first + i) * kPanelColumns + half;
        _mm256_storeu_ps(to, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
        _mm256_storeu_ps(to + 4 * kPanelColumns, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
      }
    }
  }
}

void copy_columns(const float* from, float* to, std::size_t rows, std::size_t columns,
                  std::size_t stride) {
  for (std::size_t row = 0; row < rows; ++row, from += kPanelColumns, to += stride) {
    std::memcpy(to, from, columns * sizeof(float));
  }
}

// One panel: all of its sum, in runs; `columns` below 16 are written through `spare`.
SHOTSTREAM_AVX2 void multiply_panel(const Tile& whole, std::size_t rows, std::size_t inner,
                                    std::size_t columns, float* spare) {
  const bool narrow = columns < kPanelColumns;
  Tile tile = whole;
  if (narrow) tile.out = spare, tile.out_stride = kPanelColumns;
  float* const out = tile.out;
  const std::size_t stride = tile.out_stride;
  for (std::size_t first = 0; first < inner; first += kDepth) {
    const bool begins = first % kRun == 0;
    const bool later = first >= kRun;
    tile.depth = std::min(kDepth, inner - first);
    tile.x = whole.x + first, tile.panel = whole.panel + first * whole.panel_stride;
    tile.resumes = !begins;
    tile.bias = inner <= kRun && first + tile.depth == inner ? whole.bias : nullptr;
    tile.out = later ? spare + rows * kPanelColumns : out;
    tile.out_stride = later ? kPanelColumns : stride;
    multiply_rows(tile, rows);
    const bool ends = first + tile.depth == inner || (first + tile.depth) % kRun == 0;
    if (later && ends) add_run(tile.out, out, rows, stride);
  }
  if (inner > kRun && whole.bias != nullptr) {
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t i = 0; i < kPanelColumns; ++i) out[row * stride + i] += whole.bias[i];
    }
  }
  if (narrow) copy_columns(out, whole.out, rows, columns, whole.out_stride);
}

// Memory of this thread, for sums that have no place in a result.
float* spare_memory(std::size_t numbers) {
  thread_local std::vector<float> memory;
  if (memory.size() < numbers) memory.resize(numbers);
  return memory.data();
}

#endif
}  // namespace

void multiply(const LinearProduct& product) {
  require_products();
#ifdef SHOTSTREAM_HAS_AVX2
  float* const spare = spare_memory(2 * product.rows * kPanelColumns + kPanelColumns);
  float* const bias = spare + 2 * product.rows * kPanelColumns;
  for (std::size_t first = 0; first < product.columns; first += kPanelColumns) {
    const std::size_t columns = std::min(kPanelColumns, product.columns - first);
    Tile tile{};
    tile.x = product.x, tile.x_stride = product.inner;
    tile.panel = product.packed + first * product.inner, tile.panel_stride = kPanelColumns;
    tile.out = product.out + first, tile.out_stride = product.columns;
    if (product.bias != nullptr) {
      std::fill_n(bias, kPanelColumns, 0.0f);
      std::copy_n(product.bias + first, columns, bias);
      tile.bias = bias;
    }
    multiply_panel(tile, product.rows, product.inner, columns, spare);
  }
#else
  static_cast<void>(product);
#endif
}

void multiply_keys(const HeadsProduct& product) {
  require_products();
  require_width(product.width);
#ifdef SHOTSTREAM_HAS_AVX2
  const std::size_t sums = product.rows * kPanelColumns;
  float* const spare = spare_memory(2 * sums + product.width * kPanelColumns);
  float* const panel = spare + 2 * sums;
  for (std::size_t head = 0; head < product.heads; ++head) {
    const float* const keys = product.arena.first + head * product.arena.head;
    for (std::size_t first = 0; first < product.keys; first += kPanelColumns) {
      const std::size_t columns = std::min(kPanelColumns, product.keys - first);
      pack_keys(keys + first * product.arena.row, columns, product.arena.row, product.width, panel);
      Tile tile{};
      tile.x = product.x.first + head * product.x.head, tile.x_stride = product.x.row;
      tile.panel = panel, tile.panel_stride = kPanelColumns;
      tile.out = product.out.first + head * product.out.head + first;
      tile.out_stride = product.out.row;
      multiply_panel(tile, product.rows, product.width, columns, spare);
    }
  }
#else
  static_cast<void>(product);
#endif
}

void multiply_values(const HeadsProduct& product) {
  require_products();
  require_width(product.width);
#ifdef SHOTSTREAM_HAS_AVX2
  float* const spare = spare_memory(2 * product.rows * kPanelColumns);
  for (std::size_t head = 0; head < product.heads; ++head) {
    for (std::size_t first = 0; first < product.width; first += kPanelColumns) {
      Tile tile{};
      tile.x = product.x.first + head * product.x.head, tile.x_stride = product.x.row;
      tile.panel = product.arena.first + head * product.arena.head + first;
      tile.panel_stride = product.arena.row;
      tile.out = product.out.first + head * product.out.head + first;
      tile.out_stride = product.out.row;
      multiply_panel(tile, product.rows, product.keys, kPanelColumns, spare);
    }
  }
#else
  static_cast<void>(product);
#endif
}

}  // namespace shotstream
