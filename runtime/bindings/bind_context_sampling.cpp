#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <utility>

#include "bindings.h"
#include "shotstream/context_sampling.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shotstream::bindings {

void bind_context_sampling(nb::module_& module) {
  module.def(
      "sample_context",
      [](const std::vector<int>& frame_counts, int budget) {
        std::vector<std::pair<int, int>> pairs;
        for (const ContextPick& pick : sample_context(frame_counts, budget)) {
          pairs.emplace_back(pick.shot, pick.frame_in_shot);
        }
        return pairs;
      },
      "frame_counts"_a, "budget"_a);
  module.def("context_candidates", &context_candidates, "frame_count"_a, "budget"_a);
}

}  // namespace shotstream::bindings
