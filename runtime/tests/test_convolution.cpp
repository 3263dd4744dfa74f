#include <cmath>
#include <random>
#include <vector>

#include "check.h"
#include "shotstream/convolution.h"
#include "shotstream/product.h"
#include "shotstream/status.h"

using shotstream::Convolution;
using shotstream::convolve;
using shotstream::has_products;
using shotstream::pack_kernel;
using shotstream::Status;

namespace {

std::vector<float> numbers(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> made(count);
  for (float& number : made) number = normal(random);
  return made;
}

// One number of a result, in the order that convolution.h promises.
float sum_at(const Convolution& step, const float* weight, std::size_t image, std::size_t output,
             std::size_t row, std::size_t column) {
  float sum = step.bias[output];
  for (std::size_t block = 0; block < step.inputs; block += 8) {
    for (std::size_t tap = 0; tap < 9; ++tap) {
      const std::size_t y = row + tap / 3, x = column + tap % 3;  // in the padded image
      if (y < 1 || y > step.height || x < 1 || x > step.width) continue;
      for (std::size_t i = block; i < block + 8; ++i) {
        const std::size_t plane = (image * step.inputs + i) * step.height;
        sum = std::fma(step.x[(plane + y - 1) * step.width + x - 1],
                       weight[(output * step.inputs + i) * 9 + tap], sum);
      }
    }
  }
  return sum;
}

void convolves(std::size_t images, std::size_t inputs, std::size_t outputs, std::size_t height,
               std::size_t width) {
  const std::vector<float> x = numbers(images * inputs * height * width, 1),
                           weight = numbers(outputs * inputs * 9, 2), bias = numbers(outputs, 3);
  std::vector<float> packed(weight.size()), out(images * outputs * height * width + 1, -7);
  pack_kernel(weight.data(), outputs, inputs, packed.data());
  const Convolution step{.x = x.data(),
                         .packed = packed.data(),
                         .bias = bias.data(),
                         .out = out.data(),
                         .images = images,
                         .inputs = inputs,
                         .outputs = outputs,
                         .height = height,
                         .width = width};
  convolve(step);
  const float* got = out.data();
  for (std::size_t image = 0; image < images; ++image) {
    for (std::size_t output = 0; output < outputs; ++output) {
      for (std::size_t row = 0; row < height; ++row) {
        for (std::size_t column = 0; column < width; ++column) {
          CHECK(*got++ == sum_at(step, weight.data(), image, output, row, column));
        }
      }
    }
  }
  CHECK(out.back() == -7);
}

}  // namespace

int main() {
  std::vector<float> memory(24 * 24 * 9);
  CHECK_THROWS(pack_kernel(memory.data(), 24, 8, memory.data()), Status::kConfig);
  CHECK_THROWS(pack_kernel(memory.data(), 16, 12, memory.data()), Status::kConfig);
  if (!has_products()) {
    CHECK_THROWS(convolve(Convolution{}), Status::kBackendUnavailable);
    return 0;
  }
  CHECK_THROWS(convolve(Convolution{}), Status::kConfig);
  for (const std::size_t width : {1, 2, 3, 4, 5, 8, 12, 20}) convolves(2, 16, 32, 3, width);
  convolves(1, 40, 16, 1, 7);
  return 0;
}
