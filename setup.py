"""Builds ``shotstream_rt._native`` through CMake; everything else is in ``pyproject.toml``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CMAKE_MINIMUM = (3, 20)


def system_cmake() -> str | None:
    """Return the path of a CMake that is new enough, or None."""
    path = shutil.which("cmake")
    if path is None:
        return None
    try:
        text = subprocess.run(
            [path, "--version"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.search(r"(\d+)\.(\d+)", text)
    if found is None or (int(found[1]), int(found[2])) < CMAKE_MINIMUM:
        return None
    return path


class CMakeBuild(build_ext):
    """Configures and builds with CMake, into the place where setuptools wants the extension."""

    def build_extension(self, ext: Extension) -> None:
        """Build one extension; ``ext.sources`` is not used."""
        import nanobind

        cmake = system_cmake()
        if cmake is None:
            raise RuntimeError(
                f"no CMake >= {'.'.join(map(str, CMAKE_MINIMUM))} on PATH; pip install cmake"
            )
        target_folder = (Path.cwd() / self.get_ext_fullpath(ext.name)).resolve().parent
        build_folder = ROOT / "build" / f"extension-{sys.implementation.cache_tag}"
        configure = [
            cmake, "-S", str(ROOT), "-B", str(build_folder),
            "-DCMAKE_BUILD_TYPE=Release",
            "-DSHOTSTREAM_BINDINGS=ON",
            "-DSHOTSTREAM_TESTS=OFF",
            f"-DSHOTSTREAM_VERSION={self.distribution.get_version()}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dnanobind_DIR={nanobind.cmake_dir()}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target_folder}",
        ]  # fmt: skip
        jobs = str(self.parallel or os.cpu_count() or 1)
        subprocess.run(configure, check=True)
        subprocess.run(
            [cmake, "--build", str(build_folder), "--target", "_native", "--parallel", jobs],
            check=True,
        )


setup(
    ext_modules=[Extension("shotstream_rt._native", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    # Reported to pip as a build requirement only where the machine has no usable CMake.
    setup_requires=[] if system_cmake() else [f"cmake>={'.'.join(map(str, CMAKE_MINIMUM))}"],
)
