#include <nanobind/ndarray.h>

#include <memory>

#include "bindings.h"
#include "shotstream/philox.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shotstream::bindings {
namespace {

using WritableFloats = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using Words = nb::ndarray<nb::numpy, std::uint32_t, nb::ndim<1>>;

void fill_normal(const WritableFloats& out, std::uint64_t seed, std::uint32_t shot,
                 std::uint32_t chunk, std::uint32_t step, std::uint64_t offset) {
  const std::size_t count = out.size();
  float* data = out.data();
  const nb::gil_scoped_release unlocked;
  philox_normal({seed, shot, chunk, step}, offset, count, data);
}

Words make_words(std::uint64_t seed, std::uint32_t shot, std::uint32_t chunk, std::uint32_t step,
                 std::uint64_t first_element, std::size_t count) {
  auto words = std::make_unique<std::uint32_t[]>(count);
  {
    const nb::gil_scoped_release unlocked;
    philox_uint32({seed, shot, chunk, step}, first_element, count, words.get());
  }
  std::uint32_t* data = words.release();
  const nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<std::uint32_t*>(p); });
  return Words(data, {count}, owner);
}

}  // namespace

void bind_philox(nb::module_& module) {
  module.def("philox_normal", &fill_normal, "out"_a.noconvert(), "seed"_a, "shot"_a, "chunk"_a,
             "step"_a, "offset"_a = 0);
  module.def("philox_uint32", &make_words, "seed"_a, "shot"_a, "chunk"_a, "step"_a,
             "first_element"_a, "count"_a);
}

}  // namespace shotstream::bindings
