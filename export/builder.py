"""From a graph to a plan for GPUs, checked by the builder's own log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ExportError
from .build_log import BuildLog
from .library import Library

FLAGS = ("strongly_typed", "no_tf32", "no_auxiliary_streams", "detailed_log")
"""How every plan is built; TensorRT-RTX's scratch memory is given by the caller as well."""

_USER_ALLOCATION = "user_allocation"
_GEMM_TYPE = {"float32": "Float", "bfloat16": "BFloat16", "fp8": "FP8", "int8": "Int8"}


@dataclass(frozen=True, slots=True)
class Range:
    """Lengths that an axis may have.

    Attributes:
        least: of them.
        usual: what kernels are chosen for.
        most: of them.
    """

    least: int
    usual: int
    most: int


class Builder:
    """Builds with one library. Make one per process: a library keeps the first logger it is given.

    Args:
        library: that builds.
    """

    def __init__(self, library: Library) -> None:
        self.library, self._messages = library, list[tuple[int, str]]()
        self._logger = _logger(library.module, self._messages)
        self.flags = (*FLAGS, _USER_ALLOCATION) if library.name == "rtx" else FLAGS

    def build(
        self, engine: str, graph: bytes, targets: Sequence[str], lengths: Mapping[str, Range]
    ) -> tuple[bytes, BuildLog]:
        """Build one plan.

        Args:
            engine: named in errors.
            graph: serialised.
            targets: GPUs, such as ``sm_89``.
            lengths: of the axes that have any, by name.

        Raises:
            ExportError: the library cannot read or build it, or its log does not say what it did.
        """
        self._messages.clear()
        trt = self.library.module
        builder = trt.Builder(self._logger)
        network, config = _network(trt, builder), builder.create_builder_config()
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse(graph):
            why = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
            raise ExportError(f"export build: {engine}: {self.library.title} cannot read it: {why}")
        self._configure(config, targets)
        _decompose_attention(trt, network)
        _set_lengths(builder, network, config, lengths)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            errors = [text for severity, text in self._messages if severity <= 1]
            raise ExportError(
                f"export build: {engine}: {self.library.title} cannot build it for "
                f"{', '.join(targets)}: {errors[-1] if errors else 'no reason was given'}"
            )
        return bytes(plan), BuildLog.read([text for _, text in self._messages], engine)

    def _configure(self, config: Any, targets: Sequence[str]) -> None:
        trt = self.library.module
        # On by default: it would round what float32 products multiply to 10 bits.
        config.clear_flag(trt.BuilderFlag.TF32)
        config.max_aux_streams = 0
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if self.library.name == "rtx":
            config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
            config.num_compute_capabilities = len(targets)
            for index, target in enumerate(targets):
                capability = getattr(trt.ComputeCapability, target.replace("sm_", "SM"))
                if not config.set_compute_capability(capability, index):
                    raise ExportError(f"export build: {self.library.title} refuses {target}")


def check_plan(engine: str, plan: bytes, log: BuildLog, dtype: str, products: str) -> None:
    """Require that a plan is what was asked for.

    Args:
        engine: name of the graph.
        plan: its bytes.
        log: of its build.
        dtype: of activations.
        products: what linear layers multiply; the head's are never in 8 bits.

    Raises:
        ExportError: it is not.
    """
    problems = []
    if log.unused_inputs:
        problems.append(f"the library dropped input(s) {', '.join(log.unused_inputs)}")
    if log.waits:
        problems.append(f"{log.waits} launches wait for streams of the library's own")
    eight_bits = products != "exact" and not engine.endswith("head")
    kind = _GEMM_TYPE[products if eight_bits else dtype]
    others = [types for types in log.gemm_types if types != f"{kind} x {kind}"]
    if others or (eight_bits and not log.gemm_types):
        problems.append(f"products multiply {', '.join(others) or 'nothing'}, wanted {kind}")
    if b"stream_capturable=0" in plan:
        problems.append("it cannot be captured")
    if b"tf32=1" in plan:
        problems.append("float32 products are rounded to TF32")
    if problems:
        raise ExportError(f"export build: {engine}: {'; '.join(problems)}")


def _logger(trt: Any, messages: list[tuple[int, str]]) -> Any:
    """A logger that keeps everything."""

    class Kept(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            messages.append((int(severity), text))

    return Kept()


def _network(trt: Any, builder: Any) -> Any:
    """An empty network whose types are those of the graph; TensorRT 11 knows no other."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return builder.create_network(0 if flag is None else 1 << int(flag))


def _decompose_attention(trt: Any, network: Any) -> None:
    """Let attention without a kernel of its own, such as in float32, be built from products."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == getattr(trt.LayerType, "ATTENTION_INPUT", None):
            layer.__class__ = trt.IAttentionInputLayer
            layer.attention.decomposable = True


def _set_lengths(builder: Any, network: Any, config: Any, lengths: Mapping[str, Range]) -> None:
    """Say how long axes may be, if there are such.

    Args:
        builder: of the network.
        network: whose inputs have axes of any length.
        config: that the lengths belong to.
        lengths: by the axes' names.
    """
    profile, found = builder.create_optimization_profile(), False
    for index in range(network.num_inputs):
        value = network.get_input(index)
        sides = list(value.shape)
        if -1 not in sides:
            continue
        found = True
        ranges = [lengths[value.get_dimension_name(axis)] if side == -1 else Range(side, side, side)
                  for axis, side in enumerate(sides)]  # fmt: skip
        profile.set_shape(
            value.name, [one.least for one in ranges], [one.usual for one in ranges],
            [one.most for one in ranges],
        )  # fmt: skip
    if found:
        config.add_optimization_profile(profile)
