#include "bindings.h"
#include "shotstream/nvtx.h"

namespace nb = nanobind;

namespace shotstream::bindings {

void bind_build_info(nb::module_& module) {
  module.def("build_info", [] {
    nb::dict info;
    info["version"] = SHOTSTREAM_VERSION;
    info["compiler"] = SHOTSTREAM_COMPILER;
    info["flags"] = SHOTSTREAM_FLAGS;
#ifdef SHOTSTREAM_WITH_CUDA
    info["cuda"] = true;
#else
    info["cuda"] = false;
#endif
    nb::list names;
    for (const char* name : kNvtxNames) names.append(name);
    info["nvtx_ranges"] = nb::tuple(names);
    return info;
  });
}

}  // namespace shotstream::bindings
