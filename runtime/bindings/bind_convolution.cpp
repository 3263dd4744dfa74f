#include "bindings.h"
#include "shotstream/convolution.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shotstream::bindings {
namespace {

void pack(std::uintptr_t weight, std::size_t outputs, std::size_t inputs, std::uintptr_t packed) {
  const nb::gil_scoped_release unlocked;
  pack_kernel(at<const float>(weight), outputs, inputs, at<float>(packed));
}

void run(std::uintptr_t x, std::uintptr_t packed, std::uintptr_t bias, std::uintptr_t out,
         std::size_t images, std::size_t inputs, std::size_t outputs, std::size_t height,
         std::size_t width) {
  const nb::gil_scoped_release unlocked;
  convolve(Convolution{
      .x = at<const float>(x),
      .packed = at<const float>(packed),
      .bias = at<const float>(bias),
      .out = at<float>(out),
      .images = images,
      .inputs = inputs,
      .outputs = outputs,
      .height = height,
      .width = width,
  });
}

}  // namespace

void bind_convolution(nb::module_& module) {
  module.def("pack_kernel", &pack, "weight"_a, "outputs"_a, "inputs"_a, "packed"_a);
  module.def("convolve", &run, "x"_a, "packed"_a, "bias"_a, "out"_a, "images"_a, "inputs"_a,
             "outputs"_a, "height"_a, "width"_a);
}

}  // namespace shotstream::bindings
