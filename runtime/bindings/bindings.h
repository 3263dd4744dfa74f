// One registration function per noun; module.cpp calls them in order.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>

namespace shotstream::bindings {

// Tensors come as addresses: making an array object of each would take longer than some steps.
template <class T>
T* at(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

void bind_attention(nanobind::module_& module);
void bind_errors(nanobind::module_& module);
void bind_plans(nanobind::module_& module);
void bind_context_sampling(nanobind::module_& module);
void bind_philox(nanobind::module_& module);
void bind_qkv_append(nanobind::module_& module);
void bind_convolution(nanobind::module_& module);
void bind_product(nanobind::module_& module);
void bind_build_info(nanobind::module_& module);

}  // namespace shotstream::bindings
