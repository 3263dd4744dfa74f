// Addressed noise: element e of (seed; shot, chunk, step) is always the same number.
//
// Generator: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11).
// One counter value gives a block of four 32-bit words. Packing, with block = e / 4:
//
//   key     = { seed bits 0..31, seed bits 32..63 }
//   counter = { block bits 0..31, (block bits 32..47) | step << 16, chunk, shot }
//
// step is 0 for the noise a chunk starts from and s for the re-noising draw in front of denoising
// step s (1..S-1); it has 16 bits, a block index 48, chunk and shot 32 each.
//
// Standard normals, two per pair of words (a, b) of a block, (x0, x1) -> e = 4*block + 0, 1 and
// (x2, x3) -> e = 4*block + 2, 3 (Box-Muller):
//
//   u = float(a) * 2^-32 + 2^-33             in (0, 1]
//   v = float(int32(b)) * 2^-31              in [-1, 1], the angle in half turns
//   r = sqrt(-2 log u)                       at most 6.77
//   z0 = r cos(pi v),  z1 = r sin(pi v)
//
// log, cos and sin are the short polynomials of philox.cpp, in float32 and without fused
// multiply-add, and sqrt is correctly rounded, so every CPU gives the same bits; a GPU kernel that
// writes the same expressions agrees to rounding, or bit for bit when its compiler does not
// contract them (tests/native/test_philox_tensor.py writes them as tensor operations).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace shotstream {

struct NoiseAddress {
  std::uint64_t seed = 0;
  std::uint32_t shot = 0;
  std::uint32_t chunk = 0;
  std::uint32_t step = 0;  // 0..65535
};

inline constexpr std::uint64_t kMaxElements = std::uint64_t{1} << 50;

// The four words of one counter value.
std::array<std::uint32_t, 4> philox4x32_10(std::array<std::uint32_t, 4> counter,
                                           std::array<std::uint32_t, 2> key) noexcept;

// Writes the raw words of elements [first, first + count).
void philox_uint32(const NoiseAddress& address, std::uint64_t first, std::size_t count,
                   std::uint32_t* out);

// Writes the standard normals of elements [first, first + count).
void philox_normal(const NoiseAddress& address, std::uint64_t first, std::size_t count, float* out);

}  // namespace shotstream
