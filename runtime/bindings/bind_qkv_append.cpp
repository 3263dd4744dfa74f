#include <nanobind/stl/vector.h>

#include <utility>

#include "bindings.h"
#include "shotstream/qkv_append.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shotstream::bindings {
namespace {

void norm(std::uintptr_t x, std::uintptr_t weight, float eps, std::size_t rows, std::size_t width,
          std::uintptr_t out) {
  const nb::gil_scoped_release unlocked;
  rms_norm(at<const Bfloat16>(x), at<const Bfloat16>(weight), eps, rows, width, at<Bfloat16>(out));
}

template <class T>
void append(std::uintptr_t qkv, std::uintptr_t weight_q, std::uintptr_t weight_k,
            std::uintptr_t table, std::uintptr_t queries, std::uintptr_t arena_keys,
            std::uintptr_t arena_values, std::size_t arena_rows, std::size_t row_stride,
            std::size_t head_stride, std::vector<std::int64_t> slots, std::size_t frame_tokens,
            std::size_t heads, std::size_t head_dim, float eps, bool rotate_keys) {
  const nb::gil_scoped_release unlocked;
  qkv_append(QkvAppend<T>{
      .qkv = at<const T>(qkv),
      .weight_q = at<const T>(weight_q),
      .weight_k = at<const T>(weight_k),
      .table = at<const float>(table),
      .queries = at<T>(queries),
      .arena_keys = at<T>(arena_keys),
      .arena_values = at<T>(arena_values),
      .arena_rows = arena_rows,
      .row_stride = row_stride,
      .head_stride = head_stride,
      .slots = std::move(slots),
      .frame_tokens = frame_tokens,
      .heads = heads,
      .head_dim = head_dim,
      .eps = eps,
      .rotate_keys = rotate_keys,
  });
}

template <class T>
void bind_append(nb::module_& module, const char* name) {
  module.def(name, &append<T>, "qkv"_a, "weight_q"_a, "weight_k"_a, "table"_a, "queries"_a,
             "arena_keys"_a, "arena_values"_a, "arena_rows"_a, "row_stride"_a, "head_stride"_a,
             "slots"_a, "frame_tokens"_a, "heads"_a, "head_dim"_a, "eps"_a, "rotate_keys"_a);
}

}  // namespace

void bind_qkv_append(nb::module_& module) {
  module.def("rms_norm_bfloat16", &norm, "x"_a, "weight"_a, "eps"_a, "rows"_a, "width"_a, "out"_a);
  bind_append<float>(module, "qkv_append_float32");
  bind_append<Bfloat16>(module, "qkv_append_bfloat16");
}

}  // namespace shotstream::bindings
