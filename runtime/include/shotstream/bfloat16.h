#pragma once

#include <cstdint>

namespace shotstream {

// The upper half of a float32.
struct Bfloat16 {
  std::uint16_t bits;
};

}  // namespace shotstream
