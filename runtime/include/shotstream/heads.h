#pragma once

#include <cstddef>

namespace shotstream {

// A matrix of every head. Strides are in numbers, from row to row and from head to head; the
// numbers of a row lie side by side.
template <class T>
struct Heads {
  T* first;
  std::size_t row;
  std::size_t head;
};

}  // namespace shotstream
