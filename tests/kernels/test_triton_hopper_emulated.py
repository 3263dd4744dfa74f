"""The sm_90 attention on a CPU: its own source, run by a stand-in for the Gluon language.

Gluon has no interpreter. Here every role of a program runs as a thread, shared memory is a tensor,
barriers count arrivals and bytes, and asynchronous work is as unkind as it may be: a copy destroys
its destination when it is issued and delivers when its barrier is waited for, a product is computed
when it is issued and again when it is waited for, and both must agree. A missing or misplaced wait,
a wrong phase, byte count, tile or mask is then a wrong result, or a wait that never ends.
"""

from __future__ import annotations

import math
import threading
import time
import types
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton.experimental.gluon", reason="triton with Gluon is not installed")

from shotstream_rt.kernels.gpu import (
    dual_attention_fp8_hopper,
    dual_attention_hopper,
    history_attention_hopper,
    hopper_attention,
    hopper_launch,
)
from shotstream_rt.kernels.reference import dual_attention_fp8 as formats
from shotstream_rt.kernels.reference.dual_attention import dual_attention as reference
from shotstream_rt.kernels.reference.history_attention import history_attention
from shotstream_rt.kernels.reference.merge_splits import merge_splits

Draw = Callable[..., Tensor]
_PATIENCE_S = 20.0


class Registers(Tensor):
    """A tensor of the device language."""

    def to(self, dtype: torch.dtype, bitcast: bool = False) -> Tensor:  # type: ignore[override]
        return self.view(dtype) if bitcast else super().to(dtype)


class Barrier:
    """An mbarrier: a phase ends when all arrivals are in and all announced bytes have come."""

    def __init__(self) -> None:
        self.count, self.left, self.bytes, self.phases = 0, 0, 0, 0
        self.deliveries: list[Callable[[], None]] = []

    def init(self, count: int) -> None:
        self.count = self.left = count

    def settle(self) -> None:
        if self.left == 0 and self.bytes == 0:
            self.phases, self.left = self.phases + 1, self.count


class Shared:
    """Shared memory, or a view of it."""

    def __init__(self, data: Tensor) -> None:
        self.data = data
        self.dtype = SimpleNamespace(primitive_bitwidth=8 * data.element_size())

        self.index = lambda place: Shared(data[place])
        self.permute = lambda order: Shared(data.permute(order))

    def load(self, _: Any) -> Tensor:
        return self.data.clone().as_subclass(Registers)

    def store(self, value: Tensor) -> None:
        assert self.data.dtype == value.dtype
        self.data.copy_(value)


class Pointer:
    """A pointer into a tensor, or a tensor of them."""

    def __init__(self, data: Tensor, offset: Any = 0) -> None:
        self.data, self.offset = data, offset
        self.dtype = SimpleNamespace(element_ty=data.dtype)

    def __add__(self, more: Any) -> Pointer:
        return Pointer(self.data, self.offset + more)


class Machine:
    """One program: the modules that device code names, and what they share."""

    def __init__(self, program: int, slow_role: int | None) -> None:
        self.program, self.slow_role = program, slow_role
        self.changed = threading.Condition()
        self.mine = threading.local()
        self.failed: list[BaseException] = []
        self.gl = self._language()
        self.mbarrier = SimpleNamespace(
            MBarrierLayout=lambda: "barrier",
            init=lambda bar, count: bar.init(count),
            expect=self._expect,
            arrive=self._arrive,
            wait=self._wait,
        )
        self.tma = SimpleNamespace(async_copy_global_to_shared=self._copy)

    def _language(self) -> SimpleNamespace:
        def own(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
            return lambda *args: make(*args).as_subclass(Registers)

        return SimpleNamespace(
            float32=torch.float32, bfloat16=torch.bfloat16, float8e4nv=torch.float8_e4m3fn,
            int8=torch.int8, int32=torch.int32, int64=torch.int64, constexpr=None,
            program_id=lambda _: self.program,
            cdiv=lambda a, b: -(-a // b),
            static_range=range,
            zeros=own(lambda shape, dtype, _: torch.zeros(shape, dtype=dtype)),
            full=own(lambda shape, value, dtype, _: torch.full(shape, value, dtype=dtype)),
            zeros_like=torch.zeros_like,
            arange=lambda a, b, layout: torch.arange(a, b).as_subclass(Registers),
            where=_where,
            maximum=lambda a, b: torch.maximum(a, torch.as_tensor(b)),
            max=lambda x, axis: x.amax(axis), sum=lambda x, axis: x.sum(axis), abs=torch.abs,
            exp2=torch.exp2, log2=torch.log2,
            join=lambda a, b: torch.stack([a, b], -1), split=lambda x: x.unbind(-1),
            convert_layout=lambda x, layout, assert_trivial=False: x,
            inline_asm_elementwise=_pack_e4m3,
            allocate_shared_memory=_allocate,
            load=lambda p: p.data.flatten()[p.offset].item(),
            store=_store,
            warp_specialize=self._run_roles,
            **dict.fromkeys(
                ("NVMMADistributedLayout", "DotOperandLayout", "SliceLayout", "BlockedLayout"),
                lambda *args, **named: None,
            ),
        )  # fmt: skip

    def _run_roles(self, roles: list[tuple[Any, tuple[Any, ...]]], warps: Any, regs: Any) -> None:
        def run(number: int, role: Any, arguments: tuple[Any, ...]) -> None:
            self.mine.role, self.mine.products = number, []
            try:
                role(*arguments)
                assert not self.mine.products, "a product was never waited for"
            except BaseException as error:
                with self.changed:
                    self.failed.append(error)
                    self.changed.notify_all()

        threads = [threading.Thread(target=run, args=(i, *role)) for i, role in enumerate(roles)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failed:
            raise self.failed[0]

    def _dawdle(self) -> None:
        if self.mine.role == self.slow_role:
            time.sleep(5e-4)

    def _expect(self, bar: Barrier, size: int) -> None:
        with self.changed:
            bar.bytes += size
            bar.left -= 1

    def _arrive(self, bar: Barrier, count: int) -> None:
        if hasattr(self.mine, "role"):
            self._dawdle()
        with self.changed:
            bar.left -= count
            assert bar.left >= 0, "more arrivals than a phase has"
            bar.settle()
            self.changed.notify_all()

    def _wait(self, bar: Barrier, phase: int, pred: bool = True) -> None:
        self._dawdle()
        if not pred:
            return
        with self.changed:
            passed = self.changed.wait_for(
                lambda: bar.phases & 1 != phase or bool(self.failed), _PATIENCE_S
            )
            if not passed:
                raise TimeoutError(f"role {self.mine.role} waits for ever: {vars(bar)}")
            while bar.deliveries:
                bar.deliveries.pop(0)()

    def _copy(self, source: Any, corner: list[int], bar: Barrier, target: Shared) -> None:
        rows, columns = source.block_shape
        block = torch.zeros(rows, columns, dtype=source.base.dtype)
        matrix = source.base.as_strided(source.shape, source.strides)
        part = matrix[corner[0] : corner[0] + rows, corner[1] : corner[1] + columns]
        block[: part.shape[0], : part.shape[1]] = part
        assert tuple(target.data.shape) == (rows, columns)
        with self.changed:
            target.data.fill_(torch.nan)
            bar.deliveries.append(lambda: (target.data.copy_(block), None)[1])
            bar.bytes -= block.numel() * block.element_size()
            assert bar.bytes >= 0, "more bytes than were announced"
            bar.settle()
            self.changed.notify_all()

    def warpgroup_mma(
        self, a: Any, b: Shared, acc: Tensor, use_acc: bool = True, is_async: bool = False
    ) -> Any:
        assert is_async

        def compute() -> Tensor:
            left = a.data if isinstance(a, Shared) else a
            product = left.as_subclass(Tensor).float() @ b.data.float()
            return (acc + product if use_acc else product).as_subclass(Registers)

        issued = SimpleNamespace(compute=compute, early=compute(), result=None)
        self.mine.products.append(issued)
        return issued

    def warpgroup_mma_wait(self, num_outstanding: int, deps: tuple[Any, ...]) -> Any:
        self._dawdle()
        while len(self.mine.products) > num_outstanding:
            product = self.mine.products.pop(0)
            product.result = product.compute()
            assert torch.equal(product.early.nan_to_num(7), product.result.nan_to_num(7)), (
                "shared memory changed under a product"
            )
        found = tuple(d.result if isinstance(d, SimpleNamespace) else d for d in deps)
        assert all(x is not None for x in found), "a result was used before it was waited for"
        return found[0] if len(found) == 1 else found


def _allocate(dtype: torch.dtype, shape: list[int], layout: Any) -> Any:
    if layout == "barrier":
        return SimpleNamespace(index=[Barrier() for _ in range(shape[0])].__getitem__)
    return Shared(torch.full(shape, torch.nan).to(dtype))


def _where(condition: Any, one: Any, other: Any) -> Any:
    if not isinstance(condition, Tensor):
        return one if condition else other
    return torch.where(condition, one, torch.as_tensor(other))


def _store(pointer: Pointer, value: Tensor, mask: Any = True) -> None:
    places = torch.as_tensor(pointer.offset).expand(value.shape)
    chosen = torch.as_tensor(mask).expand(value.shape)
    pointer.data.view(-1)[places[chosen].as_subclass(Tensor)] = value[chosen].as_subclass(Tensor)


def _pack_e4m3(asm: str, constraints: str, values: list[Tensor], **_: Any) -> Tensor:
    packed = [x.as_subclass(Tensor).to(torch.float8_e4m3fn) for x in values]
    return torch.stack(packed, -1).view(torch.int32).squeeze(-1).as_subclass(Registers)


def emulate(kernel: Any, grid: tuple[int], slow_role: int | None, *args: Any, **named: Any) -> None:
    """Run every program of the kernel in turn."""
    del named["num_warps"]
    given = [_argument(value) for value in args]
    for program in range(grid[0]):
        machine = Machine(program, slow_role)
        scope: dict[str, Any] = {
            name: getattr(value, "value", value) for name, value in vars(hopper_attention).items()
        }
        for name in ("gl", "mbarrier", "tma", "warpgroup_mma", "warpgroup_mma_wait"):
            scope[name] = getattr(machine, name)
        scope["fence_async_shared"] = lambda: None
        for name, value in vars(hopper_attention).items():
            function = getattr(value, "fn", None)
            if isinstance(function, types.FunctionType):
                scope[name] = types.FunctionType(
                    function.__code__, scope, name, function.__defaults__
                )
        scope["attention_kernel"](*given, **named)


def _argument(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Pointer(value)
    if hasattr(value, "block_shape"):
        value.dtype = value.base.dtype
    return value


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[int]]]:
    """``on_cpu(multiprocessors, ...)`` has launches emulated; gives the sizes of their grids."""

    def install(
        multiprocessors: int, slow_role: int | None = None, ping_pong: bool = False
    ) -> list[int]:
        grids: list[int] = []

        def run(kernel: Any, grid: tuple[int], *args: Any, **named: Any) -> None:
            grids.append(grid[0])
            emulate(kernel, grid, slow_role, *args, **{**named, "PING_PONG": ping_pong})

        monkeypatch.setattr(hopper_launch, "run_kernel", run)
        monkeypatch.setattr(hopper_launch, "merge_splits", merge_splits)
        monkeypatch.setattr(hopper_launch, "_multiprocessors", lambda _: multiprocessors)
        return grids

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield install
    torch.set_num_threads(threads)


def distance(got: Tensor, wanted: Tensor) -> float:
    assert got.shape == wanted.shape and bool(torch.isfinite(got).all())
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())


def arena(normal: Draw, keys: int, heads: int) -> tuple[Tensor, Tensor]:
    """Keys and values that are the prefix of a larger, poisoned arena."""
    k, v = (torch.full((keys + 300, heads, 128), torch.nan, dtype=torch.bfloat16) for _ in "kv")
    for x in (k, v):
        x[:keys] = normal(keys, heads, 128, dtype=torch.bfloat16)
    return k[None, :keys], v[None, :keys]


@pytest.mark.parametrize("keys", [1, 127, 128, 129, 300, 512, 905])
def test_any_length(normal: Draw, on_cpu: Callable[..., list[int]], keys: int) -> None:
    on_cpu(multiprocessors=1)
    q = normal(1, 70, 2, 128, dtype=torch.bfloat16)
    k, v = arena(normal, keys, 2)
    got = dual_attention_hopper.dual_attention(q, k, v, 0.1)
    assert distance(got, reference(q.double(), k.double(), v.double(), 0.1)) < 4e-3


@pytest.mark.parametrize("slow_role", [None, 0, 1, 2], ids=["even", "first", "second", "loads"])
@pytest.mark.parametrize("ping_pong", [False, True], ids=["drift", "ping-pong"])
def test_no_order_of_events_matters(
    normal: Draw, on_cpu: Callable[..., list[int]], slow_role: int | None, ping_pong: bool
) -> None:
    on_cpu(1, slow_role, ping_pong)
    q = normal(1, 128, 1, 128, dtype=torch.bfloat16)
    k, v = arena(normal, 128 * 6 + 40, 1)
    got = dual_attention_hopper.dual_attention(q, k, v, 0.1)
    assert distance(got, reference(q.double(), k.double(), v.double(), 0.1)) < 4e-3


def test_split_and_whole_tiles_agree(normal: Draw, on_cpu: Callable[..., list[int]]) -> None:
    q = normal(1, 300, 3, 128, dtype=torch.bfloat16)
    k, v = arena(normal, 128 * 9 + 1, 3)
    wanted = reference(q.double(), k.double(), v.double(), 0.1)
    # 9 tiles: all whole; 7 whole and 2 cut; all cut.
    for multiprocessors, programs in ((3, [9]), (7, [13]), (40, [36])):
        grids = on_cpu(multiprocessors)
        assert distance(dual_attention_hopper.dual_attention(q, k, v, 0.1), wanted) < 4e-3
        assert grids == programs


def test_strided_operands_are_read_in_place(normal: Draw, on_cpu: Callable[..., list[int]]) -> None:
    on_cpu(1)
    q, k, v = normal(1, 140, 6, 128, dtype=torch.bfloat16).chunk(3, 2)
    got = dual_attention_hopper.dual_attention(q, k, v, 0.1)
    assert distance(got, reference(q.double(), k.double(), v.double(), 0.1)) < 4e-3


def test_large_logits_do_not_overflow(normal: Draw, on_cpu: Callable[..., list[int]]) -> None:
    on_cpu(1)
    q = normal(1, 64, 1, 128, dtype=torch.bfloat16) * 30
    k, v = arena(normal, 400, 1)
    got = dual_attention_hopper.dual_attention(q, k, v, 1.0)
    assert distance(got, reference(q.double(), k.double(), v.double(), 1.0)) < 2e-2


SPANS = {
    "one": [[(0, 700)], [(0, 1)], [(699, 700)]],
    "context and recent": [[(0, 700)], [(0, 70), (300, 700)], [(0, 128), (444, 700)]],
    "across the ring's end": [[(0, 40), (60, 200), (650, 700)], [(3, 131), (500, 501)], [(9, 650)]],
}


@pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS)
@pytest.mark.parametrize("slow_role", [None, 1, 2], ids=["even", "second", "loads"])
def test_every_head_reads_its_own_spans(
    normal: Draw, on_cpu: Callable[..., list[int]], spans: Any, slow_role: int | None
) -> None:
    grids = on_cpu(7, slow_role)
    q = normal(1, 200, 3, 128, dtype=torch.bfloat16)
    k, v = arena(normal, 700, 3)
    got = history_attention_hopper.history_attention(q, k, v, 0.1, spans)
    wanted = history_attention(q.double(), k.double(), v.double(), 0.1, spans)
    assert distance(got, wanted) < 4e-3
    assert grids == [6], "no tile is cut"


@pytest.mark.parametrize("keys", [1, 15, 137, 128 * 11 + 8], ids=str)
@pytest.mark.parametrize("multiprocessors", [1, 9], ids=["whole", "cut"])
def test_keys_in_8_bits(
    normal: Draw, on_cpu: Callable[..., list[int]], keys: int, multiprocessors: int
) -> None:
    on_cpu(multiprocessors)
    q = normal(1, 150, 2, 128, dtype=torch.bfloat16)
    k, v = arena(normal, keys, 2)
    scales = formats.head_scales(k)
    k8 = formats.quantise(k, scales)
    got = dual_attention_fp8_hopper.dual_attention_qk8(q, k8, v, 0.1, scales)
    assert distance(got, formats.dual_attention_qk8(q, k8, v, 0.1, scales)) < 6e-3


@pytest.mark.parametrize("keys", [1, 8, 24, 137, 128 * 19 + 8], ids=str)
@pytest.mark.parametrize("multiprocessors", [1, 9], ids=["whole", "cut"])
def test_all_in_8_bits(
    normal: Draw, on_cpu: Callable[..., list[int]], keys: int, multiprocessors: int
) -> None:
    on_cpu(multiprocessors)
    q = normal(1, 150, 2, 128, dtype=torch.bfloat16)
    k, v, k_scales, v_scales = arena_fp8(normal, keys, 2)
    got = dual_attention_fp8_hopper.dual_attention_fp8(q, k, v, keys, 0.1, k_scales, v_scales)
    wanted = formats.dual_attention_fp8(q, k, v, keys, 0.1, k_scales, v_scales)
    # Weights are rounded to three bits.
    assert distance(got, wanted) < 4e-2
    shares = v_scales / v_scales.amax()
    out = dual_attention_fp8_hopper.dual_attention_fp8_out(q, k, v, keys, 0.1, k_scales, shares)
    assert out.dtype == torch.float8_e4m3fn
    # And so is the result.
    assert distance(out.float() * v_scales.amax(), wanted) < 6e-2


def arena_fp8(normal: Draw, keys: int, heads: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same in 8 bits: poison behind the prefix, and in rows between keys."""
    k, v = (normal(keys, heads, 128) for _ in range(2))
    scales = formats.head_scales(k), formats.head_scales(v)
    tokens = math.ceil(keys / 16) * 16 + 160
    k8 = torch.full((1, tokens, heads, 128), torch.nan).to(torch.float8_e4m3fn)
    v8 = torch.full((heads, 128, tokens), torch.nan).to(torch.float8_e4m3fn)
    k8.view(torch.uint8)[0, formats.key_rows(keys)] = formats.quantise(k, scales[0]).view(
        torch.uint8
    )
    v8[:, :, :keys] = formats.quantise(v, scales[1]).permute(1, 2, 0)
    return k8, v8, *scales
