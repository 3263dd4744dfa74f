#include <cmath>
#include <vector>

#include "check.h"
#include "shotstream/philox.h"
#include "shotstream/status.h"

using shotstream::kMaxElements;
using shotstream::NoiseAddress;
using shotstream::philox4x32_10;
using shotstream::philox_normal;
using shotstream::philox_uint32;
using Block = std::array<std::uint32_t, 4>;

namespace {

// The known-answer vectors published with Random123.
void gives_the_published_answers() {
  constexpr std::uint32_t kOnes = 0xFFFFFFFFu;
  CHECK(philox4x32_10({0, 0, 0, 0}, {0, 0}) ==
        (Block{0x6627E8D5u, 0xE169C58Du, 0xBC57AC4Cu, 0x9B00DBD8u}));
  CHECK(philox4x32_10({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}) ==
        (Block{0x408F276Du, 0x41C83B0Eu, 0xA20BC7C6u, 0x6D5451FDu}));
  CHECK(philox4x32_10({0x243F6A88u, 0x85A308D3u, 0x13198A2Eu, 0x03707344u},
                      {0xA4093822u, 0x299F31D0u}) ==
        (Block{0xD16CFE09u, 0x94FDCCEBu, 0x5001E420u, 0x24126EA1u}));
}

void packs_the_address_as_documented() {
  const NoiseAddress address{0x1122334455667788u, 9, 8, 7};
  const std::uint64_t block = 0x0000A1B2C3D4E5F6u;
  Block words{};
  philox_uint32(address, block * 4, 4, words.data());
  CHECK(words ==
        philox4x32_10({0xC3D4E5F6u, 0xA1B2u | (7u << 16), 8, 9}, {0x55667788u, 0x11223344u}));
}

void slices_equal_the_whole() {
  const NoiseAddress address{7, 1, 2, 3};
  std::vector<float> whole(3000);
  philox_normal(address, 0, whole.size(), whole.data());
  for (const std::size_t first : {0u, 1u, 3u, 255u, 256u, 257u, 1023u}) {
    for (const std::size_t count : {0u, 1u, 2u, 255u, 256u, 777u}) {
      std::vector<float> slice(count);
      philox_normal(address, first, count, slice.data());
      for (std::size_t i = 0; i < count; ++i) CHECK(slice[i] == whole[first + i]);
    }
  }
}

void is_a_box_muller_of_the_words() {
  const NoiseAddress address{123456789, 4, 5, 6};
  constexpr std::size_t kCount = 1 << 16;
  std::vector<std::uint32_t> words(kCount);
  std::vector<float> normals(kCount);
  philox_uint32(address, 0, kCount, words.data());
  philox_normal(address, 0, kCount, normals.data());
  for (std::size_t i = 0; i < kCount; i += 2) {
    // The uniform is a float32 by definition; everything after it is compared in float64.
    const double u = static_cast<float>(words[i]) * 0x1p-32f + 0x1p-33f;
    const double v = static_cast<float>(static_cast<std::int32_t>(words[i + 1])) * 0x1p-31f;
    const double radius = std::sqrt(-2.0 * std::log(u));
    const double angle = 3.14159265358979323846 * v;
    CHECK(std::abs(normals[i] - radius * std::cos(angle)) < 2e-6);
    CHECK(std::abs(normals[i + 1] - radius * std::sin(angle)) < 2e-6);
  }
}

void rejects_addresses_that_would_collide() {
  float value = 0.0f;
  CHECK_THROWS(philox_normal({1, 0, 0, 1u << 16}, 0, 1, &value), Status::kConfig);
  CHECK_THROWS(philox_normal({1, 0, 0, 0}, kMaxElements, 1, &value), Status::kConfig);
  philox_normal({1, 0, 0, 65535}, kMaxElements - 1, 1, &value);
  CHECK(std::isfinite(value));
}

}  // namespace

int main() {
  gives_the_published_answers();
  packs_the_address_as_documented();
  slices_equal_the_whole();
  is_a_box_muller_of_the_words();
  rejects_addresses_that_would_collide();
  return 0;
}
