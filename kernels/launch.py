"""The one place where kernels are launched: compiled by Triton when first called, or from a bundle.

Without a bundle a launch is ``kernel[grid](...)``. With one (``open_bundle``, or the variable
``SHOTSTREAM_KERNELS``) it runs the machine code that was built and measured before; a launch that
the bundle has no machine code for is an error, never a compilation.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Protocol

from .. import env


class Launcher(Protocol):
    """Runs kernels in place of Triton's own launcher."""

    def launch(
        self, kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        """Run a kernel on the current stream.

        Args:
            kernel: a ``triton.jit`` function.
            grid: programs along one to three axes.
            arguments: its arguments that are not compile-time constants, in order.
            named: compile-time constants by name, and options such as ``num_warps``.
        """


_chosen: Launcher | None = None


def run_kernel(kernel: Any, grid: tuple[int, ...], *arguments: Any, **named: Any) -> None:
    """Run a ``triton.jit`` function on the current stream.

    Args:
        kernel: the function.
        grid: programs along one to three axes.
        arguments: its arguments that are not compile-time constants, in order.
        named: compile-time constants by name, and ``num_warps`` and the like.

    Raises:
        KernelUnavailableError: a bundle is open and has no machine code for this launch.
        ManifestError: the bundle is damaged, or older than the kernel's source.
    """
    launcher = _chosen or _from_environment()
    if launcher is None:
        kernel[grid](*arguments, **named)
    else:
        launcher.launch(kernel, grid, arguments, named)


def use_launcher(launcher: Launcher | None) -> None:
    """Run all further kernels of this process through ``launcher``; ``None`` for Triton's own.

    The launcher is one per process, as loaded machine code is: choose it before a session is
    opened.
    """
    global _chosen
    _chosen = launcher


def open_bundle(folder: str | Path) -> None:
    """Run all further kernels of this process from a bundle; see ``kernels.aot``.

    Raises:
        ManifestError: there is no bundle there, or not one that this version reads.
    """
    from .aot.launcher import BundleLauncher

    use_launcher(BundleLauncher(Path(folder)))


@cache
def _from_environment() -> Launcher | None:
    folder = env.kernel_bundle()
    if folder is None:
        return None
    from .aot.launcher import BundleLauncher

    return BundleLauncher(folder)
