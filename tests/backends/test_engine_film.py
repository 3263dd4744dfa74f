"""A film of nano's on engines: five cuts, a prompt change, and a shot left to extend.

The whole bundled film takes minutes: ``python bench/engine_film.py``.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from shotstream_rt.backends import registry
from shotstream_rt.backends.engine_gate import pass_distances
from shotstream_rt.loading.backend_request import backend_request
from shotstream_rt.loading.layouts import available_models
from shotstream_rt.story import Story

BENCH = str(Path(__file__).resolve().parents[2] / "bench")
if BENCH not in sys.path:
    sys.path.insert(0, BENCH)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("nano" not in available_models(), reason="no nano weights in this checkout"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For exports."""
    pytest.importorskip("onnxscript", reason="exports need onnx and onnxscript")
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def film() -> Any:
    """Five shots by ``eager``: four of one chunk, and one that gets another prompt and extends."""
    from engine_film import Script, oracle_film

    texts = Story.bundled().captions
    script = Script(shots=texts, chunks=(1, 1, 1, 1, 8), prompt=texts[3], prompted=4)
    tape, directions = oracle_film(script)
    assert len(tape.latents) == 12
    *cuts, prompt = directions["directions"]
    assert [cut["chunks"] for cut in cuts] == [1, 1, 1, 1, None]
    assert prompt["kind"] == "prompt" and 0 < prompt["chunk"] < 7
    return tape, directions


def needs(library: str) -> None:
    if reason := registry.engine_library(library).unavailable_reason(torch.device("cpu")):
        pytest.skip(reason)


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
def test_a_film_through_whole_passes_is_eagers(library: str, folder: Path, film: Any) -> None:
    needs(library)
    from engine_film import Row, judged

    row = Row(backend=library, dtype="float32")
    report = judged(row, film, folder, films=library == "onnxruntime")
    assert report["passed"], report
    assert (report["film"] is None) == (library == "openvino")


def test_each_pass_in_bfloat16_is_as_near_as_torchs_own(folder: Path) -> None:
    from engine_film import OWN_RATIO, Row, engines_of

    needs("openvino")
    engines = engines_of(Row(backend="openvino", dtype="bfloat16"), folder)
    asked = backend_request("nano", dtype="bfloat16", engines=engines)
    asked = replace(asked, kernel_set="reference")
    found = {}
    for name in ("eager", "openvino"):
        backend: Any = registry.resolve(name, asked)
        found[name] = {one.name: one for one in pass_distances(backend, asked)}
        backend.close()
    assert len(found["eager"]) == 7
    for name, own in found["eager"].items():
        engine = found["openvino"][name]
        assert 0 < engine.keys <= OWN_RATIO * own.keys, name
        assert 0 < engine.values <= OWN_RATIO * own.values, name
        if own.latents is not None:
            assert 0 < engine.latents <= OWN_RATIO * own.latents, name


def test_chunks_in_bfloat16_are_as_near_as_torchs_own(folder: Path, film: Any) -> None:
    """Each behind the very chunks that ``eager`` made: how far whole films drift is chance."""
    from engine_film import Row, judged

    needs("openvino")
    own = judged(
        Row(backend="eager", dtype="bfloat16", form="", kernels="reference"), film, folder
    )["alone"]
    report = judged(Row(backend="openvino", dtype="bfloat16"), film, folder, own=own)
    assert 0 < own < 0.05 and report["passed"], (own, report)
    assert report["shots"] < 1
