"""Addressed noise: known answers, distribution, and independence of how it is cut up."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shotstream_rt._native import philox_normal, philox_uint32
from shotstream_rt.errors import ConfigError

WORD = st.integers(0, 2**32 - 1)


def normals(count: int, address: tuple[int, int, int, int], offset: int = 0) -> NDArray[np.float32]:
    out = np.full(count, np.nan, dtype=np.float32)
    philox_normal(out, *address, offset=offset)
    return out


def words(count: int, address: tuple[int, int, int, int], offset: int = 0) -> NDArray[np.uint32]:
    out = np.zeros(count, dtype=np.uint32)
    philox_uint32(out, *address, offset=offset)
    return out


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_words_are_the_published_known_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], answer: str
) -> None:
    # Random123's kat_vectors, brought into the documented packing of an address.
    block = counter[0] | (counter[1] & 0xFFFF) << 32
    address = key[0] | key[1] << 32, counter[3], counter[2], counter[1] >> 16
    assert " ".join(f"{word:08x}" for word in words(4, address, 4 * block).tolist()) == answer


@given(seed=st.integers(0, 2**64 - 1), shot=WORD, chunk=WORD, step=st.integers(0, 65535))
def test_words_equal_plain_integer_arithmetic(seed: int, shot: int, chunk: int, step: int) -> None:
    c, k = [5, step << 16, chunk, shot], [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        low, high = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [high >> 32 ^ c[1] ^ k[0], high & 0xFFFFFFFF, low >> 32 ^ c[3] ^ k[1], low & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    assert words(4, (seed, shot, chunk, step), 20).tolist() == c


@given(first=st.integers(0, 1500), count=st.integers(0, 1500))
def test_a_slice_is_a_slice_of_the_whole(first: int, count: int) -> None:
    address = (7, 3, 2, 1)
    assert np.array_equal(normals(count, address, first), normals(3000, address)[first:][:count])


def test_the_shape_of_the_array_does_not_matter() -> None:
    out = np.empty((3, 4, 5, 2), dtype=np.float32)
    philox_normal(out, 7, 0, 0, 0)
    assert np.array_equal(out.reshape(-1), normals(out.size, (7, 0, 0, 0)))


def test_numbers_are_standard_normal() -> None:
    z = normals(1 << 20, (2026, 1, 2, 3)).astype(np.float64)
    # Each bound is about five standard errors at this sample size.
    assert abs(z.mean()) < 0.005
    assert abs(z.var() - 1) < 0.007
    assert abs((z**3).mean()) < 0.02
    assert abs((z**4).mean() - 3) < 0.05
    assert abs(np.corrcoef(z[::2], z[1::2])[0, 1]) < 0.007
    edges = np.array([-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0])
    expected = np.array([0.00135, 0.02275, 0.15866, 0.5, 0.84134, 0.97725, 0.99865])
    assert np.allclose(np.searchsorted(np.sort(z), edges) / z.size, expected, atol=0.0025)


def test_neighbouring_addresses_are_unrelated() -> None:
    base = (11, 4, 5, 2)
    reference = normals(1 << 16, base)
    for place in range(4):
        other = list(base)
        other[place] += 1
        neighbour = normals(1 << 16, (other[0], other[1], other[2], other[3]))
        assert abs(float(np.corrcoef(reference, neighbour)[0, 1])) < 0.02


def test_normals_follow_the_documented_formula() -> None:
    address = (99, 0, 1, 2)
    pairs = words(1 << 16, address).reshape(-1, 2)
    u = pairs[:, 0].astype(np.float32) * np.float32(2**-32) + np.float32(2**-33)
    v = pairs[:, 1].view(np.int32).astype(np.float32) * np.float32(2**-31)
    radius, angle = np.sqrt(-2 * np.log(u.astype(np.float64))), np.pi * v.astype(np.float64)
    expected = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
    assert np.abs(normals(1 << 16, address) - expected).max() < 2e-6


def test_bits_are_the_same_on_every_machine() -> None:
    # Float32 operations in a fixed order, never contracted: the digest is part of the contract.
    digest = hashlib.sha256(normals(1 << 16, (7, 1, 2, 3)).tobytes()).hexdigest()
    assert digest == "39f89b0faf85405b3ec54e353f2042ba90b74f8e04e4a793dc416934c7afbb42"


@pytest.mark.parametrize(("step", "offset"), [(65536, 0), (0, 2**50)], ids=["step", "offset"])
def test_an_address_out_of_range_is_refused(step: int, offset: int) -> None:
    with pytest.raises(ConfigError, match="wanted"):
        philox_normal(np.empty(1, dtype=np.float32), 1, 0, 0, step, offset)


def test_only_a_writable_contiguous_float32_array_is_filled() -> None:
    frozen = np.empty(4, dtype=np.float32)
    frozen.setflags(write=False)
    strided = np.empty(8, dtype=np.float32)[::2]
    for array in (np.empty(4), frozen, strided):
        with pytest.raises(TypeError):
            philox_normal(array, 1, 0, 0, 0)  # type: ignore[arg-type]
