#include <nanobind/stl/array.h>

#include <array>

#include "bindings.h"
#include "shotstream/attention.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shotstream::bindings {
namespace {

using Strides = std::array<std::size_t, 2>;

void run(std::uintptr_t q, std::uintptr_t k, std::uintptr_t v, std::uintptr_t bias,
         std::uintptr_t out, float scale, std::array<std::size_t, 4> sizes, Strides q_strides,
         Strides k_strides, Strides v_strides, Strides out_strides) {
  const nb::gil_scoped_release unlocked;
  attend(HeadsAttention{
      .q = at<const Bfloat16>(q),
      .k = at<const Bfloat16>(k),
      .v = at<const Bfloat16>(v),
      .bias = at<const float>(bias),
      .out = at<Bfloat16>(out),
      .scale = scale,
      .rows = sizes[0],
      .keys = sizes[1],
      .heads = sizes[2],
      .width = sizes[3],
      .q_row = q_strides[0],
      .q_head = q_strides[1],
      .k_row = k_strides[0],
      .k_head = k_strides[1],
      .v_row = v_strides[0],
      .v_head = v_strides[1],
      .out_row = out_strides[0],
      .out_head = out_strides[1],
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
