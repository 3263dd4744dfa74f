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

template <void (*run)(const HeadProduct&)>
void head(std::uintptr_t x, std::uintptr_t arena, std::uintptr_t out, std::size_t rows,
          std::size_t keys, std::size_t width, std::size_t x_stride, std::size_t arena_stride,
          std::size_t out_stride) {
  const nb::gil_scoped_release unlocked;
  run(HeadProduct{
      .x = at<const float>(x),
      .arena = at<const float>(arena),
      .out = at<float>(out),
      .rows = rows,
      .keys = keys,
      .width = width,
      .x_stride = x_stride,
      .arena_stride = arena_stride,
      .out_stride = out_stride,
  });
}

template <void (*run)(const HeadProduct&)>
void bind_head(nb::module_& module, const char* name) {
  module.def(name, &head<run>, "x"_a, "arena"_a, "out"_a, "rows"_a, "keys"_a, "width"_a,
             "x_stride"_a, "arena_stride"_a, "out_stride"_a);
}

}  // namespace

void bind_product(nb::module_& module) {
  module.def("has_products", &has_products);
  module.def("packed_numbers", &packed_numbers, "columns"_a, "inner"_a);
  module.def("pack_weight", &pack, "weight"_a, "columns"_a, "inner"_a, "packed"_a);
  module.def("multiply", &linear, "x"_a, "packed"_a, "bias"_a, "out"_a, "rows"_a, "inner"_a,
             "columns"_a);
  bind_head<&multiply_keys>(module, "multiply_keys");
  bind_head<&multiply_values>(module, "multiply_values");
}

}  // namespace shotstream::bindings
