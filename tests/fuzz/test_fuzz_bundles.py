"""Damaged bundles of kernels: machine code and manifests."""

from __future__ import annotations

import hashlib
import struct

from shotstream_rt.errors import ManifestError
from shotstream_rt.kernels.aot.bundle import read_machine_code
from shotstream_rt.kernels.aot.cubin import CubinError, read_cubin
from shotstream_rt.kernels.aot.manifest import BundleManifest

HEADER, SECTION = struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQIIQQ")
ARGUMENTS = [
    {"name": "x", "type": "*fp32", "divisible": True},
    {"name": "d", "type": "tensordesc<bf16[8, 64]>", "divisible": False},
    {"name": "n", "type": "i32", "divisible": False},
]


def machine_code() -> bytes:
    """A file with one kernel ``k`` of one parameter of 8 bytes."""
    names = b"\0.nv.info.k\0"
    table = struct.pack("<BBHIHHI", 4, 0x17, 12, 0, 0, 0, 8 << 18)
    at = HEADER.size
    sections = [
        SECTION.pack(0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        SECTION.pack(0, 3, 0, 0, at, len(names), 0, 0, 0, 0),
        SECTION.pack(1, 0x70000000, 0, 0, at + len(names), len(table), 0, 0, 0, 0),
    ]
    ident = b"\x7fELF" + bytes([2, 1, 1, 51, 7]) + bytes(7)
    begin = at + len(names) + len(table)
    header = HEADER.pack(ident, 2, 190, 1, 0, 0, begin, 90, 64, 56, 0, 64, 3, 1)
    return header + names + table + b"".join(sections)


def test_machine_code(surface):
    good = machine_code()
    assert read_cubin(good).parameters == {"k": (8,)}

    def attempt(mutator):
        try:
            read_cubin(mutator.data(good))
        except CubinError as error:
            raise ManifestError(str(error)) from error

    surface.run(attempt, 8000)


def test_bundles(surface, tmp_path):
    good = machine_code()
    (tmp_path / "a.cubin").write_bytes(good)
    entry = {
        "name": "n", "kernel": "adaln._k", "capability": 90, "symbol": "k", "arguments": ARGUMENTS,
        "constants": "", "options": "", "descriptors": [], "num_warps": 4, "num_ctas": 1,
        "cooperative": False, "overlapped": False, "shared_bytes": 0, "scratch_bytes": 0,
        "registers": 0, "spill_bytes": 0, "file": "a.cubin", "cubin_bytes": len(good),
        "cubin_sha256": hashlib.sha256(good).hexdigest(), "source_sha256": "x",
    }  # fmt: skip
    manifest = {
        "format": "shotstream-kernels", "schema_version": 1, "triton": "3", "ptxas": {},
        "line_info": False, "kernels": [entry],
    }  # fmt: skip

    def attempt(mutator):
        (tmp_path / "manifest.json").write_bytes(mutator.text(manifest))
        for found in BundleManifest.read(tmp_path).kernels:
            read_machine_code(tmp_path, found)

    surface.run(attempt, 1000)
