#include "bindings.h"
#include "shotstream/status.h"

namespace nb = nanobind;

namespace shotstream::bindings {
namespace {

// Raises the class of shotstream_rt.errors that the status names.
void translate(const std::exception_ptr& pending, void* /*payload*/) {
  try {
    std::rethrow_exception(pending);
  } catch (const Error& error) {
    const nb::object type =
        nb::module_::import_("shotstream_rt.errors").attr(error_class_name(error.status()));
    PyErr_SetString(type.ptr(), error.what());
  }
}

}  // namespace

void bind_errors(nb::module_& /*module*/) { nb::register_exception_translator(translate); }

}  // namespace shotstream::bindings
