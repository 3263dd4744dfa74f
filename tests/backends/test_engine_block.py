"""Engine blocks stand where bound blocks stand: every cache policy, eager and captured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shotstream_rt.backends import registry
from shotstream_rt.backends.base import StudentBackend
from shotstream_rt.backends.cuda_graph import CudaGraphBackend
from shotstream_rt.backends.eager import EagerBackend
from shotstream_rt.backends.engine_backend import open_engines
from shotstream_rt.backends.engine_gate import check_segments, segment_distances
from shotstream_rt.backends.engine_passes import load_passes
from shotstream_rt.backends.request import BackendRequest
from shotstream_rt.backends.segment_backend import (
    LibrarySegments,
    engine_student,
    product_student,
)
from shotstream_rt.config import CacheConfig, StreamConfig
from shotstream_rt.errors import BackendUnavailableError
from shotstream_rt.export.manifest import EngineManifest
from shotstream_rt.model.bound_student import BoundStudent

Play = Callable[[StreamConfig, StudentBackend], Tensor]
Engines = Callable[..., Path]
Ask = Callable[..., BackendRequest]

CPU = torch.device("cpu")
CACHES = [
    CacheConfig(context_frames=4),
    CacheConfig(context_frames=4, sink_frames=2, window_frames=6),
    CacheConfig(context_frames=4, window_frames=6),
    CacheConfig(context_frames=4, key_rotation="on_read", window_frames=6),
    CacheConfig(context_frames=0),
]


@pytest.fixture(params=registry.ENGINE_LIBRARIES)
def library(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if (reason := registry.availability(CPU)[name]) is not None:
        pytest.skip(reason)
    return name


def of_engines(library: str, asked: BackendRequest) -> BoundStudent:
    """A student of engine blocks."""
    folder = asked.engines_folder()
    assert folder is not None
    manifest = EngineManifest.read(folder)
    load = registry.engine_library(library).load
    runner = LibrarySegments(load_passes(manifest, folder, {}, load, 1))
    return engine_student(product_student(asked, manifest), asked.config, runner)


@pytest.fixture
def segments(requested: Ask, engines: Engines) -> Callable[..., BackendRequest]:
    """Asks for a configuration's segments."""

    def ask(
        config: StreamConfig, products: str = "exact", kernels: str = "reference"
    ) -> BackendRequest:
        lossy = () if products == "exact" else (products,)
        folder = engines(config, torch.float32, "segments", products)
        return requested(config, kernels, engines=folder, lossy_parts=lossy)

    return ask


@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_a_film_through_segments_is_the_oracles(
    cache: CacheConfig, policies: Mapping[str, StreamConfig], requested: Ask, play: Play,
    segments: Ask,
) -> None:  # fmt: skip
    config = replace(policies["window"], cache=cache)
    wanted = play(config, EagerBackend(requested(config, "reference").student(), config))
    student = of_engines("onnxruntime", segments(config))
    for backend in (
        EagerBackend(student, config),
        CudaGraphBackend(student, config, capture=lambda: lambda function: function),
    ):
        got = play(config, backend)
        assert bool(got.isfinite().all()), "a slot that was never written was read"
        assert float((got - wanted).norm() / wanted.norm()) <= 1e-5


def test_history_may_be_pruned(
    policies: Mapping[str, StreamConfig], requested: Ask, play: Play, segments: Ask, library: str
) -> None:
    config = policies["pruned"]
    wanted = play(config, EagerBackend(requested(config, "reference").student(), config))
    got = play(config, registry.resolve(library, segments(config)))
    assert float((got - wanted).norm() / wanted.norm()) <= 1e-5


@pytest.mark.parametrize("products", ["fp8", "int8"])
def test_products_in_8_bits_are_the_twins(
    products: str, policies: Mapping[str, StreamConfig], segments: Ask, engines: Engines
) -> None:
    config = policies["window"]
    asked = segments(config, products)
    asked = replace(asked, lossy_parts=() if products == "int8" else asked.lossy_parts)
    found = segment_distances(of_engines("onnxruntime", asked), asked, products)
    assert [one.name for one in found if one.layer in (1, None)] == [
        "chunk_project", "chunk_rest1", "chunk_rest2", "chunk_head", "context_project",
        "context_rest1", "context_rest2",
    ]  # fmt: skip
    assert max(one.distance for one in found) <= 1e-4


def test_a_segment_that_computes_something_else_is_refused_at_open(
    policies: Mapping[str, StreamConfig], segments: Ask
) -> None:
    asked = segments(policies["window"])

    class Wrong(LibrarySegments):
        def run(
            self, name: str, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
        ) -> None:
            super().run(name, inputs, outputs)
            if name == "context_rest2":
                outputs["y"].mul_(1.01)

    manifest = EngineManifest.read(asked.engines or Path())
    load = registry.engine_library("onnxruntime").load
    runner = Wrong(load_passes(manifest, asked.engines or Path(), {}, load, 1))
    student = engine_student(product_student(asked, manifest), asked.config, runner)
    with pytest.raises(BackendUnavailableError, match=r"context_rest2 are 1.0e-02 away .* 1e-04"):
        check_segments(student, asked, "exact")


def test_products_have_to_be_the_profiles(
    policies: Mapping[str, StreamConfig], segments: Ask, requested: Ask
) -> None:
    exact, fp8 = (segments(policies["window"], products) for products in ("exact", "fp8"))
    for asked, message in (
        (replace(exact, lossy_parts=("fp8",)), "products are exact, the profile's kernels are fp8"),
        (replace(fp8, lossy_parts=()), "products are fp8, the profile's kernels are exact"),
    ):
        with pytest.raises(BackendUnavailableError, match=message):
            registry.resolve("onnxruntime", asked)
    opened = open_engines(fp8, "onnxruntime", registry.engine_library("onnxruntime").load)
    assert opened.info.kernel_set == "reference+fp8"
