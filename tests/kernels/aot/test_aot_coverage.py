"""Every launch that the product makes at its own shapes has machine code in a bundle.

The 1.3B student runs a shot on tensors without memory: wrappers prepare their launches as on a GPU,
and each is looked up among the compile cases.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("runs compiled kernels; the plain run does it", allow_module_level=True)

from shotstream_rt.backends.cuda_graph import CudaGraphBackend
from shotstream_rt.config import ModelConfig, StreamConfig
from shotstream_rt.history import HistoryPolicy
from shotstream_rt.kernels import launch
from shotstream_rt.kernels.aot import signature
from shotstream_rt.kernels.aot.build import arguments_of, constants_of
from shotstream_rt.kernels.aot.bundle import differences
from shotstream_rt.kernels.aot.source import kernel_name
from shotstream_rt.kernels.check.compile_cases import FP8_CAPABILITY, compile_cases
from shotstream_rt.kernels.gpu import dual_attention_hopper, hopper_launch, wave_product
from shotstream_rt.kernels.gpu.noise import addressed_normal
from shotstream_rt.kernels.sets.decoder_set import triton_decoder_kernels
from shotstream_rt.kernels.sets.fp8_attention_set import (
    with_fp8_attention,
    with_fp8_keys,
    with_fp8_out,
)
from shotstream_rt.kernels.sets.fp8_set import with_fp8
from shotstream_rt.kernels.sets.kernel_set import KernelSet, triton_kernels
from shotstream_rt.kernels.sets.waves_set import with_waves
from shotstream_rt.model.bound_student import BoundStudent
from shotstream_rt.model.captions import CaptionSet
from shotstream_rt.model.chunk_decoder import ChunkProgram, ChunkShape
from shotstream_rt.model.student import Student
from shotstream_rt.model.tiny.chunk_program import TinyProgram
from shotstream_rt.model.tiny.network import TinyDecoder
from shotstream_rt.model.wan_vae.chunk_program import VaeProgram
from shotstream_rt.model.wan_vae.network import WanVAE
from shotstream_rt.pipeline import Pipeline
from shotstream_rt.shot_inputs import ShotInputs

META = torch.device("meta")


class Finder:
    """A launcher that looks up what it would run, and runs nothing."""

    def __init__(self, capability: int) -> None:
        self.capability = capability
        self.entries = [
            (case, kernel_name(case.kernel), arguments_of(case))
            for case in compile_cases(capability)
        ]
        self.used: set[str] = set()
        self.missing: set[str] = set()

    def launch(
        self, kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        parameters = signature.parameters_of(kernel)
        values, constants, options = signature.bind(parameters, arguments, named)
        declared = [parameter for parameter in parameters if not parameter.constant]
        described = tuple(map(signature.describe, declared, values))
        words = {}
        for case, name, wanted in self.entries:
            if name == kernel_name(kernel):
                words[case.name] = differences(
                    wanted, signature.constants_text(constants_of(case)),
                    signature.options_text(case.options), described,
                    signature.constants_text(constants), signature.options_text(options),
                )  # fmt: skip
        fitting = [name for name, differences in words.items() if not differences]
        self.used.update(fitting)
        if not fitting:
            self.missing.add(f"{kernel_name(kernel)}: {words}")


CAPABILITIES = (80, 90, 120)
"""Each has tiles of its own; the others launch like one of these."""


@pytest.fixture(params=CAPABILITIES)
def finder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Finder]:
    for name, module in list(sys.modules.items()):
        if name.startswith("shotstream_rt.") and hasattr(module, "capability_of"):
            monkeypatch.setattr(module, "capability_of", lambda tensor: request.param)
    for module in (hopper_launch, wave_product):
        monkeypatch.setattr(module, "_multiprocessors", lambda device: 132)
    finder = Finder(request.param)
    launch.use_launcher(finder)
    yield finder
    launch.use_launcher(None)


class DeviceNoise:
    """Noise as it is drawn on a GPU."""

    def draw(
        self, shot: int, chunk: int, step: int, shape: Sequence[int], device: torch.device
    ) -> torch.Tensor:
        address = torch.zeros(3, dtype=torch.int64, device=device)
        return addressed_normal(address, step, math.prod(shape)).view(tuple(shape))


def shoot(kernels: KernelSet, history: HistoryPolicy | None) -> None:
    """Two chunks of a shot of the product's width, behind a context of two shots."""
    config = StreamConfig(model=ModelConfig(num_layers=2), history=history)
    with META:
        student = Student(config.model).to(torch.bfloat16).requires_grad_(False)
    bound = BoundStudent.from_student(student, kernels)
    backend = CudaGraphBackend(bound, config, lambda: lambda function: function)
    pipeline = Pipeline(config, backend.new_film())
    model = config.model
    captions = CaptionSet(
        embeddings=torch.zeros(3, model.text_len, model.text_dim), lengths=(40, 63, 101)
    )
    context = torch.zeros(1, config.cache.context_frames, *pipeline.latent_shape[2:], device=META)
    pipeline.begin_shot(ShotInputs(2, context, [0, 0, 0, 1, 1, 1], captions, 2))
    for chunk in range(2):
        pipeline.run_chunk(chunk, DeviceNoise())
        pipeline.commit()


@pytest.mark.parametrize(
    "finder,maths",
    [
        *itertools.product(CAPABILITIES, ["bf16", "history", "waves"]),
        *itertools.product(
            [capability for capability in CAPABILITIES if capability >= FP8_CAPABILITY],
            ["fp8", "fp8-keys", "fp8-attention", "fp8-attention-out"],
        ),
        *itertools.product(
            [90], ["gluon", "gluon-fp8-keys", "gluon-fp8-attention", "gluon-fp8-attention-out"]
        ),
    ],
    indirect=["finder"],
)
def test_every_launch_of_the_student_is_built(finder: Finder, maths: str) -> None:
    kernels = triton_kernels()
    if "gluon" in maths:
        attention = dual_attention_hopper.dual_attention
        kernels = dataclasses.replace(kernels, name="triton+gluon", attention=attention)
    if maths == "waves":
        kernels = with_waves(kernels)
    if "fp8" in maths:
        kernels = with_fp8(kernels)
    if maths.endswith("fp8-keys"):
        kernels = with_fp8_keys(kernels)
    elif "fp8-attention" in maths:
        kernels = with_fp8_attention(kernels)
    if maths.endswith("-out"):
        kernels = with_fp8_out(kernels)
    # A pruned profile runs both attentions: a layer's heads all look at everything, or some do not.
    history = HistoryPolicy(recent_frames=3, pruned_heads=((), (0, 5)))
    with torch.inference_mode():
        shoot(kernels, history if maths == "history" else None)
    assert finder.missing == set()
    assert finder.used
    # Of the student's products, which on sm_80 have other tiles, on 132 multiprocessors.
    assert ("wave_linear" in finder.used) == (maths == "waves")


@pytest.mark.parametrize("decoder", ["vae", "tiny"])
def test_every_launch_of_a_decoder_is_built(finder: Finder, decoder: str) -> None:
    shape, kernels = ChunkShape(frames=3, height=60, width=104), triton_decoder_kernels()
    with torch.inference_mode(), META:
        network = (WanVAE() if decoder == "vae" else TinyDecoder()).to(torch.bfloat16)
        program: ChunkProgram
        if isinstance(network, WanVAE):
            scale = torch.ones(1, 16, 1, 1, 1, dtype=torch.bfloat16)
            program = VaeProgram(network, scale, scale, shape, kernels)
        else:
            program = TinyProgram(network, shape, kernels)
        for first in (True, False):
            program.run(first)
            kernels.frame_pack(program.pixels[0, : program.first_frames])
            kernels.frame_pack(program.pixels[0])
    assert finder.missing == set()
    assert finder.used


def test_every_launch_goes_through_the_seam() -> None:
    for path in Path(launch.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            bracketed = isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript)
            assert not bracketed or path.stem == "launch", f"{path.name}:{node.lineno}"
