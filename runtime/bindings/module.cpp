#include "bindings.h"

NB_MODULE(_native, module) {
  module.doc() = "Host planning, addressed noise and small steps of a pass on a CPU; no torch.";
  // Objects that live until the interpreter ends are no leak worth a message to the user.
  nanobind::set_leak_warnings(false);
  shotstream::bindings::bind_errors(module);
  shotstream::bindings::bind_plans(module);
  shotstream::bindings::bind_context_sampling(module);
  shotstream::bindings::bind_philox(module);
  shotstream::bindings::bind_qkv_append(module);
  shotstream::bindings::bind_attention(module);
  shotstream::bindings::bind_product(module);
  shotstream::bindings::bind_convolution(module);
  shotstream::bindings::bind_build_info(module);
}
