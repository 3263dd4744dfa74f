"""The Dockerfile fits to the rest of the repository; ``make docker-check`` does what it says."""

from __future__ import annotations

import argparse
import importlib
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
ARGUMENTS = dict(re.findall(r"^ARG (\w+)=(.*)$", DOCKERFILE, re.MULTILINE))


def test_it_has_the_torch_that_everything_is_tried_with() -> None:
    (torch,) = re.findall(r"^TORCH +\?= (\S+)$", (ROOT / "Makefile").read_text("utf-8"), re.M)
    assert ARGUMENTS["TORCH"] == torch


def test_its_command_is_one_that_the_package_has() -> None:
    found = re.findall(r"^(?:ENTRYPOINT|CMD) (\[.*\])$", DOCKERFILE, re.M)
    entry, words = (json.loads(command) for command in found)
    assert entry == ["python", "-m", "shotstream_rt"]
    parser = argparse.ArgumentParser()
    command = importlib.import_module(f"shotstream_rt.cli.{words[0]}")
    command.configure(parser)
    asked = parser.parse_args(words[1:])
    assert asked.host == "0.0.0.0", "a container is reached from outside"
    assert f"EXPOSE {asked.port}" in DOCKERFILE
    assert f"VOLUME {asked.store}" in DOCKERFILE


def test_it_runs_without_rights() -> None:
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.M) == ["shotstream"]


def test_files_that_it_is_built_from_exist() -> None:
    rules = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    let_through = [rule[1:] for rule in rules if rule.startswith("!")]
    assert [name for name in let_through if not (ROOT / name).exists()] == []
    links = [path for path in (ROOT / "python/shotstream_rt").iterdir() if path.is_symlink()]
    assert {link.readlink().name for link in links} <= set(let_through), "links lead somewhere"


def test_arguments_that_are_documented_exist() -> None:
    text = (ROOT / "docs/operate.md").read_text("utf-8")
    documented = re.findall(r"--build-arg (\w+)=", text)
    assert documented
    assert set(documented) <= set(ARGUMENTS)
