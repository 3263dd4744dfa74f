#include <nanobind/stl/array.h>

#include "bindings.h"
#include "shotstream/attention.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shotstream::bindings {
namespace {

void run(std::uintptr_t q, std::uintptr_t k, std::uintptr_t v, std::uintptr_t bias,
         std::uintptr_t out, float scale, Sizes sizes, Strides q_strides, Strides k_strides,
         Strides v_strides, Strides out_strides) {
  const nb::gil_scoped_release unlocked;
  attend(HeadsAttention{
      .q = heads_at<const Bfloat16>(q, q_strides),
      .k = heads_at<const Bfloat16>(k, k_strides),
      .v = heads_at<const Bfloat16>(v, v_strides),
      .bias = at<const float>(bias),
      .out = heads_at<Bfloat16>(out, out_strides),
      .scale = scale,
      .rows = sizes[0],
      .keys = sizes[1],
      .heads = sizes[2],
      .width = sizes[3],
  });
}

}  // namespace

void bind_attention(nb::module_& module) {
  module.def("has_bfloat16_products", &has_bfloat16_products);
  module.def("has_fast_bfloat16_products", &has_fast_bfloat16_products);
  module.def("attend_bfloat16", &run, "q"_a, "k"_a, "v"_a, "bias"_a, "out"_a, "scale"_a, "sizes"_a,
             "q_strides"_a, "k_strides"_a, "v_strides"_a, "out_strides"_a);
}

}  // namespace shotstream::bindings
