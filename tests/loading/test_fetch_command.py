"""The command ``fetch``: what it tells, and what an interrupted one keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shotstream_rt import ConfigError, Model
from shotstream_rt.cli import main
from shotstream_rt.loading.fetch import BASE, BASE_REPOSITORY

from .hub_models import BASE_FILES
from .hub_server import Hub

pytest.importorskip("huggingface_hub", reason="the hub extra is not installed")


def test_the_command(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", BASE, "--json"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out.splitlines()[-1])
    assert told["bytes"] == sum(
        len(data) for path, data in BASE_FILES.items() if path not in (
            "README.md", "diffusion_pytorch_model.safetensors",
        )
    )  # fmt: skip
    assert Path(told["path"]).is_dir()
    assert hub.revisions[BASE_REPOSITORY]["main"] in err
    assert main(["fetch", "self-forcing", "-q"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["fetch", "self-forcing", "--student", "dall-e"]) == 2
    with pytest.raises(ConfigError, match="no student itself"):
        Model.open(BASE, device="cpu")


def test_an_interrupted_command_keeps_what_came_in(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(self: object, stage: str, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    monkeypatch.setattr("shotstream_rt.cli.load_progress.LoadLine.__call__", interrupt)
    assert main(["fetch", "self-forcing", "--json"]) == 130
    out, err = capsys.readouterr()
    assert "what came in is kept" in err
    assert json.loads(out.splitlines()[-1])["kind"] == "KeyboardInterrupt"
    assert list(cache.rglob("*.part"))
