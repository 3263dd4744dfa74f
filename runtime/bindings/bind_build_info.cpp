#include "bindings.h"

namespace nb = nanobind;

namespace shotstream::bindings {

void bind_build_info(nb::module_& module) {
  module.def("build_info", [] {
    nb::dict info;
    info["version"] = SHOTSTREAM_VERSION;
    info["compiler"] = SHOTSTREAM_COMPILER;
    info["flags"] = SHOTSTREAM_FLAGS;
    return info;
  });
}

}  // namespace shotstream::bindings
