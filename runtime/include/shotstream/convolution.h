// Convolutions of 3 x 3 pixels, padded by one, in float32 on a CPU with AVX2.
//
// Bits are those of oneDNN's on such a CPU: every sum begins with the bias and goes on number by
// number with fused multiply-add, by blocks of eight channels, in each by row and column of the
// weight, and then by channel.
#pragma once

#include <cstddef>

namespace shotstream {

// Channels of a block; a convolution's inputs are a multiple of it.
inline constexpr std::size_t kBlockChannels = 8;

// Packs a weight [outputs, inputs, 3, 3], contiguous, into panels of sixteen outputs, each in the
// order of the sums: outputs * inputs * 9 numbers. Inputs that are no multiple of 8, or outputs
// that are none of 16, are refused.
void pack_kernel(const float* weight, std::size_t outputs, std::size_t inputs, float* packed);

// Images and results are contiguous.
struct Convolution {
  const float* x;       // [images, inputs, height, width]
  const float* packed;  // from pack_kernel
  const float* bias;    // [outputs]
  float* out;           // [images, outputs, height, width]
  std::size_t images;
  std::size_t inputs;
  std::size_t outputs;
  std::size_t height;
  std::size_t width;
};

void convolve(const Convolution& step);

}  // namespace shotstream
