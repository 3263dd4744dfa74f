"""A stand-in for the Gluon language, which has no interpreter: runs a kernel's source on a CPU.

Every role of a program runs as a thread, shared memory is a tensor, barriers count arrivals and
bytes, and asynchronous work is as unkind as it may be: a copy destroys its destination when it is
issued and delivers when its barrier is waited for, a product is computed when it is issued and
again when it is waited for, and both must agree. A missing or misplaced wait, a wrong phase, byte
count, tile or mask is then a wrong result, or a wait that never ends.
"""

from __future__ import annotations

import threading
import time
import types
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from shotstream_rt.kernels.gpu import hopper_attention

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
    """Run every program of the sm_90 attention in turn.

    Args:
        kernel: not read; the names of ``hopper_attention`` are.
        grid: how many programs.
        slow_role: number of the role that dawdles at every wait, if one does.
        args: of the kernel.
        named: its constants; ``num_warps`` is left out.
    """
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
