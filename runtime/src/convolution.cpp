#include "shotstream/convolution.h"

#include <algorithm>
#include <vector>

#include "shotstream/product.h"
#include "shotstream/status.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define SHOTSTREAM_AVX2 __attribute__((target("avx2,fma")))
#define SHOTSTREAM_HAS_AVX2 1
// Arrays of registers stay in registers only where every index is a constant.
#define SHOTSTREAM_UNROLL _Pragma("GCC unroll 8")
#endif

namespace shotstream {
namespace {

constexpr std::size_t kTaps = 9;
// Blocks of channels whose part of a panel, and of the rows that it meets, stay in the first-level
// cache: 14 and 12 KB.
constexpr std::size_t kGroup = 3;

void check(std::size_t outputs, std::size_t inputs) {
  require(inputs > 0 && inputs % kBlockChannels == 0, "inputs", static_cast<long long>(inputs),
          "a multiple of 8");
  require(outputs > 0 && outputs % kPanelColumns == 0, "outputs", static_cast<long long>(outputs),
          "a multiple of 16");
}

#ifdef SHOTSTREAM_HAS_AVX2
// An image in memory: [inputs / 8, height + 2, width + 2, 8], with zeros around.
struct Padded {
  float* numbers;
  std::size_t row;    // numbers of a row
  std::size_t plane;  // of a block of channels
};

// Pixels beside one another, and sixteen outputs of each.
struct Spot {
  const float* x;      // the pixel above and left of the first
  const float* panel;  // of the first block
  float* sums;         // [pixels, 16]
  std::size_t blocks;
  std::size_t row;
  std::size_t plane;
};

template <std::size_t pixels>
SHOTSTREAM_AVX2 inline void add_blocks(const Spot& spot) {
  __m256 low[pixels], high[pixels];
  SHOTSTREAM_UNROLL
  for (std::size_t pixel = 0; pixel < pixels; ++pixel) {
    low[pixel] = _mm256_loadu_ps(spot.sums + pixel * kPanelColumns);
    high[pixel] = _mm256_loadu_ps(spot.sums + pixel * kPanelColumns + 8);
  }
  const float* panel = spot.panel;
  for (std::size_t block = 0; block < spot.blocks; ++block) {
    for (std::size_t row = 0; row < 3; ++row) {
      const float* x = spot.x + block * spot.plane + row * spot.row;
      // Three pixels of eight channels lie side by side.
      for (std::size_t i = 0; i < 3 * kBlockChannels; ++i, panel += kPanelColumns) {
        const __m256 first = _mm256_loadu_ps(panel), second = _mm256_loadu_ps(panel + 8);
        SHOTSTREAM_UNROLL
        for (std::size_t pixel = 0; pixel < pixels; ++pixel) {
          const __m256 factor = _mm256_broadcast_ss(x + pixel * kBlockChannels + i);
          low[pixel] = _mm256_fmadd_ps(factor, first, low[pixel]);
          high[pixel] = _mm256_fmadd_ps(factor, second, high[pixel]);
        }
      }
    }
  }
  SHOTSTREAM_UNROLL
  for (std::size_t pixel = 0; pixel < pixels; ++pixel) {
    _mm256_storeu_ps(spot.sums + pixel * kPanelColumns, low[pixel]);
    _mm256_storeu_ps(spot.sums + pixel * kPanelColumns + 8, high[pixel]);
  }
}

SHOTSTREAM_AVX2 void add_row(Spot spot, std::size_t width) {
  // Fives where they come out even: fewer than four pixels leave multipliers waiting.
  const std::size_t most = width % 5 == 0 ? 5 : 6;
  while (width > 0) {
    const std::size_t now = std::min(width, most);
    switch (now) {
      case 6:
        add_blocks<6>(spot);
        break;
      case 5:
        add_blocks<5>(spot);
        break;
      case 4:
        add_blocks<4>(spot);
        break;
      case 3:
        add_blocks<3>(spot);
        break;
      case 2:
        add_blocks<2>(spot);
        break;
      default:
        add_blocks<1>(spot);
    }
    spot.x += now * kBlockChannels, spot.sums += now * kPanelColumns, width -= now;
  }
}

// Rows to columns: to[i * to_stride + j] = from[j * from_stride + i] for i, j below 8.
SHOTSTREAM_AVX2 inline void transpose(const float* from, std::size_t from_stride, float* to,
                                      std::size_t to_stride) {
  __m256 a[8], b[8];
  SHOTSTREAM_UNROLL
  for (std::size_t i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps(from + i * from_stride);
  SHOTSTREAM_UNROLL
  for (std::size_t i = 0; i < 8; i += 2) {
    b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]), b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
  }
  SHOTSTREAM_UNROLL
  for (std::size_t i = 0; i < 8; i += 4) {
    a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
    a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xEE);
    a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
    a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xEE);
  }
  SHOTSTREAM_UNROLL
  for (std::size_t i = 0; i < 4; ++i) {
    _mm256_storeu_ps(to + i * to_stride, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
    _mm256_storeu_ps(to + (i + 4) * to_stride, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
  }
}

SHOTSTREAM_AVX2 void pad(const float* x, const Convolution& step, const Padded& to) {
  const std::size_t pixels = step.height * step.width;
  for (std::size_t block = 0; block < step.inputs / kBlockChannels; ++block) {
    for (std::size_t row = 0; row < step.height; ++row) {
      const float* from = x + block * kBlockChannels * pixels + row * step.width;
      float* place = to.numbers + block * to.plane + (row + 1) * to.row + kBlockChannels;
      std::size_t column = 0;
      for (; column + 8 <= step.width; column += 8) {
        transpose(from + column, pixels, place + column * kBlockChannels, kBlockChannels);
      }
      for (; column < step.width; ++column) {
        for (std::size_t i = 0; i < kBlockChannels; ++i) {
          place[column * kBlockChannels + i] = from[i * pixels + column];
        }
      }
    }
  }
}

// sums [pixels, 16] to out [16, pixels].
SHOTSTREAM_AVX2 void place_outputs(const float* sums, std::size_t pixels, float* out) {
  std::size_t pixel = 0;
  for (; pixel + 8 <= pixels; pixel += 8) {
    for (std::size_t half = 0; half < kPanelColumns; half += 8) {
      transpose(sums + pixel * kPanelColumns + half, kPanelColumns, out + half * pixels + pixel,
                pixels);
    }
  }
  for (; pixel < pixels; ++pixel) {
    for (std::size_t i = 0; i < kPanelColumns; ++i) {
      out[i * pixels + pixel] = sums[pixel * kPanelColumns + i];
    }
  }
}

void convolve_image(const Convolution& step, const Padded& image, float* sums, float* out) {
  const std::size_t pixels = step.height * step.width, blocks = step.inputs / kBlockChannels;
  constexpr std::size_t kBlockNumbers = kTaps * kBlockChannels * kPanelColumns;
  for (std::size_t first = 0; first < step.outputs; first += kPanelColumns) {
    for (std::size_t pixel = 0; pixel < pixels; ++pixel) {
      std::copy_n(step.bias + first, kPanelColumns, sums + pixel * kPanelColumns);
    }
    const float* panel = step.packed + first * step.inputs * kTaps;
    for (std::size_t block = 0; block < blocks; block += kGroup) {
      for (std::size_t row = 0; row < step.height; ++row) {
        add_row(Spot{.x = image.numbers + block * image.plane + row * image.row,
                     .panel = panel + block * kBlockNumbers,
                     .sums = sums + row * step.width * kPanelColumns,
                     .blocks = std::min(kGroup, blocks - block),
                     .row = image.row,
                     .plane = image.plane},
                step.width);
      }
    }
    place_outputs(sums, pixels, out + first * pixels);
  }
}
#endif

}  // namespace

void pack_kernel(const float* weight, std::size_t outputs, std::size_t inputs, float* packed) {
  check(outputs, inputs);
  for (std::size_t first = 0; first < outputs; first += kPanelColumns) {
    for (std::size_t block = 0; block < inputs; block += kBlockChannels) {
      for (std::size_t tap = 0; tap < kTaps; ++tap) {
        for (std::size_t i = block; i < block + kBlockChannels; ++i) {
          for (std::size_t column = 0; column < kPanelColumns; ++column) {
            *packed++ = weight[((first + column) * inputs + i) * kTaps + tap];
          }
        }
      }
    }
  }
}

void convolve(const Convolution& step) {
  if (!has_products()) {
    throw Error(Status::kBackendUnavailable,
                "convolution: got a CPU without AVX2, wanted one with it; use oneDNN's");
  }
  check(step.outputs, step.inputs);
#ifdef SHOTSTREAM_HAS_AVX2
  const std::size_t row = (step.width + 2) * kBlockChannels, plane = (step.height + 2) * row;
  const std::size_t pixels = step.height * step.width;
  thread_local std::vector<float> memory;
  const std::size_t image = step.inputs / kBlockChannels * plane;
  memory.assign(image + pixels * kPanelColumns, 0.0f);
  const Padded padded{.numbers = memory.data(), .row = row, .plane = plane};
  for (std::size_t i = 0; i < step.images; ++i) {
    pad(step.x + i * step.inputs * pixels, step, padded);
    convolve_image(step, padded, memory.data() + image, step.out + i * step.outputs * pixels);
  }
#endif
}

}  // namespace shotstream
