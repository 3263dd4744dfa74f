#include <nanobind/stl/array.h>

#include "bindings.h"
#include "shotstream/product.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shotstream::bindings {
namespace {

void pack(std::uintptr_t weight, std::size_t columns, std::size_t inner, std::uintptr_t packed) {
  const nb::gil_scoped_release unlocked;
  pack_weight(at<const float>(weight), columns, inner, at<float>(packed));
}

void linear(std::uintptr_t x, std::uintptr_t packed, std::uintptr_t bias, std::uintptr_t out,
            std::size_t rows, std::size_t inner, std::size_t columns) {
  const nb::gil_scoped_release unlocked;
  multiply(LinearProduct{
      .x = at<const float>(x),
      .packed = at<const float>(packed),
      .bias = at<const float>(bias),
      .out = at<float>(out),
      .rows = rows,
      .inner = inner,
      .columns = columns,
  });
}

template <void (*run)(const HeadsProduct&)>
void heads(std::uintptr_t x, std::uintptr_t arena, std::uintptr_t out, Sizes sizes,
           Strides x_strides, Strides arena_strides, Strides out_strides) {
  const nb::gil_scoped_release unlocked;
  run(HeadsProduct{
      .x = heads_at<const float>(x, x_strides),
      .arena = heads_at<const float>(arena, arena_strides),
      .out = heads_at<float>(out, out_strides),
      .heads = sizes[2],
      .rows = sizes[0],
      .keys = sizes[1],
      .width = sizes[3],
  });
}

template <void (*run)(const HeadsProduct&)>
void bind_heads(nb::module_& module, const char* name) {
  module.def(name, &heads<run>, "x"_a, "arena"_a, "out"_a, "sizes"_a, "x_strides"_a,
             "arena_strides"_a, "out_strides"_a);
}

}  // namespace

void bind_product(nb::module_& module) {
  module.def("has_products", &has_products);
  module.def("packed_numbers", &packed_numbers, "columns"_a, "inner"_a);
  module.def("pack_weight", &pack, "weight"_a, "columns"_a, "inner"_a, "packed"_a);
  module.def("multiply", &linear, "x"_a, "packed"_a, "bias"_a, "out"_a, "rows"_a, "inner"_a,
             "columns"_a);
  bind_heads<&multiply_keys>(module, "multiply_keys");
  bind_heads<&multiply_values>(module, "multiply_values");
}

}  // namespace shotstream::bindings
