"""The wheel, where nothing but its dependencies is installed, plays and measures by itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, requires
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(*command: str | Path, cwd: Path, path: str | None = None) -> str:
    """Run a command without this checkout in sight; give its standard output."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SHOTSTREAM"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=kept, capture_output=True, text=True,
        check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def runtime_dependencies() -> Iterator[Distribution]:
    """The distributions that the runtime needs, without those of any extra."""
    waiting, seen = ["shotstream_rt"], set()
    while waiting:
        for requirement in requires(waiting.pop()) or ():
            name = re.match(r"[\w.-]+", requirement)
            assert name is not None
            if "extra ==" in requirement or name[0].lower() in seen:
                continue
            seen.add(name[0].lower())
            try:
                found = distribution(name[0])
            except PackageNotFoundError:  # of another platform
                continue
            waiting.append(name[0])
            yield found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Through the source archive, so that nothing left in the checkout's build folder gets in.
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("shotstream_rt-*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel and links to its dependencies, nothing else."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for found in runtime_dependencies():
        for top in {Path(file).parts[0] for file in found.files or ()}:
            source = Path(str(found.locate_file(top)))
            if top not in ("..", "__pycache__") and not (packages / top).exists():
                (packages / top).symlink_to(source)
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target",
        packages, wheel, cwd=folder)  # fmt: skip
    return folder / "bin/python"


def test_the_wheel_holds_the_runtime_only(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "shotstream_rt", next(n.split("/")[0] for n in names if n.endswith("METADATA"))
    }  # fmt: skip
    for wanted in ("kernels/gpu/dual_attention.py", "nano/student.safetensors", "py.typed"):
        assert f"shotstream_rt/{wanted}" in names


def test_the_environment_is_bare(python: Path, tmp_path: Path) -> None:
    code = (
        "import importlib.util as u, shotstream_rt; print(shotstream_rt.__file__); "
        "print(*(n for n in ('shotstream_distill', 'pytest', 'matplotlib') if u.find_spec(n)))"
    )
    where, others = run(python, "-c", code, cwd=tmp_path).split("\n")[:2]
    assert str(python.parents[1]) in where
    assert others == ""


def test_it_says_what_it_can_run(python: Path, tmp_path: Path) -> None:
    said = run(python, "-m", "shotstream_rt", "info", "--json", cwd=tmp_path)
    assert json.loads(said.splitlines()[-1])["models"].keys() == {"nano"}


def test_it_plays_the_story(python: Path, tmp_path: Path) -> None:
    out = tmp_path / "story.mp4"
    said = run(python, "-m", "shotstream_rt", "generate", "--out", out, "--json", cwd=tmp_path)
    assert json.loads(said.splitlines()[-1])["frames"] == 405
    assert out.stat().st_size > 10_000


def test_it_measures_itself(python: Path, tmp_path: Path) -> None:
    said = run(python, "-m", "shotstream_rt.bench", "--shots", "1", "--json", cwd=tmp_path)
    assert json.loads(said.splitlines()[-1])["status"] == "ok"
