"""OpenMP's waiting: bounded in the commands' own process, never in a host's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from shotstream_rt import env

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in NAMES:
        monkeypatch.setenv(name, "x")  # so that what the test sets is taken back
        monkeypatch.delenv(name)
    return monkeypatch


def test_waiting_is_bounded(unset: pytest.MonkeyPatch) -> None:
    env.wait_briefly()
    assert int(os.environ["GOMP_SPINCOUNT"]) < 10_000
    assert int(os.environ["KMP_BLOCKTIME"]) < 10


@pytest.mark.parametrize("name", NAMES)
def test_what_a_user_chose_stays(unset: pytest.MonkeyPatch, name: str) -> None:
    unset.setenv(name, "ACTIVE")
    env.wait_briefly()
    assert {n: os.environ[n] for n in NAMES if n in os.environ} == {name: "ACTIVE"}


def test_commands_are_imported_before_torch_and_a_library_sets_nothing() -> None:
    code = (
        "import os, sys; before = dict(os.environ); import shotstream_rt.cli; "
        "assert 'torch' not in sys.modules; from shotstream_rt import Session; "
        "assert dict(os.environ) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
