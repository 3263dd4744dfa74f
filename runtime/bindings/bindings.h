// One registration function per noun; module.cpp calls them in order.
#pragma once

#include <nanobind/nanobind.h>

#include <array>
#include <cstdint>

#include "shotstream/heads.h"

namespace shotstream::bindings {

// Tensors come as addresses: making an array object of each would take longer than some steps.
template <class T>
T* at(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Rows, keys, heads, and features of a head.
using Sizes = std::array<std::size_t, 4>;
// Numbers from row to row and from head to head.
using Strides = std::array<std::size_t, 2>;

template <class T>
Heads<T> heads_at(std::uintptr_t address, const Strides& strides) {
  return Heads<T>{.first = at<T>(address), .row = strides[0], .head = strides[1]};
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
