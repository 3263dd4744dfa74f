"""Build the image and play from it: ``make docker-check``.

With a Docker daemon it is the image itself. Without one its steps are done here, as far as they can
be: the files that .dockerignore lets through, the Dockerfile's arguments, the same install script,
the same command, and a user without rights. What Docker alone can tell is then not looked at: the
base image, its packages and the copying between stages.

Either way ``doctor`` plays a whole session against what was started.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMAGE = "shotstream_rt:check"
USER = 10001


def main() -> int:
    """Build, play, tell."""
    if not (ROOT / "python/shotstream_rt/nano/student.json").is_file():
        say("this checkout has no nano weights: there is nothing to play")
        return 1
    has_daemon = shutil.which("docker") and subprocess.run(
        ["docker", "info"], capture_output=True, check=False
    )
    with tempfile.TemporaryDirectory(prefix="shotstream-docker-") as folder:
        if has_daemon and has_daemon.returncode == 0:
            with image_playing() as (url, python):
                return examine(url, python)
        say("no Docker daemon answers: the steps of the image are done here")
        with steps_playing(Path(folder)) as (url, python):
            return examine(url, python)


@contextmanager
def image_playing() -> Iterator[tuple[str, list[str]]]:
    """Build the image and run it; gives the page's address inside, and Python there."""
    subprocess.run(["docker", "build", "--tag", IMAGE, "."], cwd=ROOT, check=True)
    run = ["docker", "run", "--rm", "--name", "shotstream-check", IMAGE, *command()[1], "--json"]
    python = ["docker", "exec", "shotstream-check", "python"]
    with playing(run) as url:
        yield url, python


@contextmanager
def steps_playing(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Do the image's steps in a folder; gives the page's address and the Python installed there."""
    folder.chmod(0o755)
    source, target, films, home = (folder / name for name in ("source", "venv", "films", "home"))
    copy_context(source)
    # Of the declared arguments all but the place that torch comes from: here as all packages.
    arguments = {**declared_arguments(), "TORCH_INDEX": os.environ.get("TORCH_INDEX", "")}
    subprocess.run(
        ["sh", str(source / "docker/install.sh"), str(source), str(target)],
        env={**os.environ, **arguments}, check=True,
    )  # fmt: skip
    for made in (films, home):
        made.mkdir(mode=0o700)
    python = ["env", "-i", f"HOME={home}", str(target / "bin/python")]
    if os.geteuid() == 0:
        user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
        begun = subprocess.run([*user, *python, "-c", ""], capture_output=True, check=False)
        if begun.returncode == 0:
            python = [*user, *python]
            for made in (films, home):
                os.chown(made, USER, USER)
        else:
            say("the Python of this machine is for this user alone: another one cannot be tried")
    entry, words = command()
    assert entry[0] == "python"
    words = [str(films) if word == "/films" else word for word in words]
    # The port is free in a container; here another program may have it.
    with playing([*python, *entry[1:], *words, "--port", "0", "--json"], cwd=home) as url:
        yield url, python


@contextmanager
def playing(run: list[str], cwd: Path | None = None) -> Iterator[str]:
    """Run a server until the body is left; it has to end by itself when it is asked to."""
    with subprocess.Popen(run, stdout=subprocess.PIPE, text=True, cwd=cwd) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise SystemExit("the server has not started")
            yield str(json.loads(line)["url"])
        finally:
            process.send_signal(signal.SIGTERM)
    if process.returncode:
        raise SystemExit(f"the server ended with {process.returncode}")


def examine(url: str, python: list[str]) -> int:
    """Play a whole session."""
    run = [*python, "-m", "shotstream_rt", "doctor", url]
    return subprocess.run(run, cwd="/", check=False).returncode


def copy_context(target: Path) -> None:
    """Copy what .dockerignore lets through."""
    lines = (ROOT / ".dockerignore").read_text("utf-8").split("\n")
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*", "everything is left out but what is named"
    left_out = [rule.rsplit("/", 1)[-1] for rule in rules[1:] if not rule.startswith("!")]
    target.mkdir()
    for name in (rule[1:] for rule in rules if rule.startswith("!")):
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns(*left_out)
            shutil.copytree(ROOT / name, target / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(ROOT / name, target / name)


def declared_arguments() -> dict[str, str]:
    """The Dockerfile's arguments and their values."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    return {name: value.strip('"') for name, value in re.findall(r"^ARG (\w+)=(.*)$", text, re.M)}


def command() -> tuple[list[str], list[str]]:
    """The Dockerfile's ENTRYPOINT and CMD."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    found = dict(re.findall(r"^(ENTRYPOINT|CMD) (\[.*\])$", text, re.M))
    return json.loads(found["ENTRYPOINT"]), json.loads(found["CMD"])


def say(text: str) -> None:
    """Tell who runs this."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
