#include <nanobind/ndarray.h>

#include "bindings.h"
#include "shotstream/philox.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shotstream::bindings {
namespace {

using WritableFloats = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using WritableWords = nb::ndarray<std::uint32_t, nb::c_contig, nb::device::cpu>;

void fill_normal(const WritableFloats& out, std::uint64_t seed, std::uint32_t shot,
                 std::uint32_t chunk, std::uint32_t step, std::uint64_t offset) {
  const std::size_t count = out.size();
  float* data = out.data();
  const nb::gil_scoped_release unlocked;
  philox_normal({seed, shot, chunk, step}, offset, count, data);
}

void fill_words(const WritableWords& out, std::uint64_t seed, std::uint32_t shot,
                std::uint32_t chunk, std::uint32_t step, std::uint64_t offset) {
  const std::size_t count = out.size();
  std::uint32_t* data = out.data();
  const nb::gil_scoped_release unlocked;
  philox_uint32({seed, shot, chunk, step}, offset, count, data);
}

}  // namespace

void bind_philox(nb::module_& module) {
  module.def("philox_normal", &fill_normal, "out"_a.noconvert(), "seed"_a, "shot"_a, "chunk"_a,
             "step"_a, "offset"_a = 0);
  module.def("philox_uint32", &fill_words, "out"_a.noconvert(), "seed"_a, "shot"_a, "chunk"_a,
             "step"_a, "offset"_a = 0);
}

}  // namespace shotstream::bindings
