"""How commands end when something is wrong: their exit codes and their words."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from shotstream_rt.bench.__main__ import main as run_bench
from shotstream_rt.cli import main
from shotstream_rt.errors import ConfigError
from shotstream_rt.terminal import run_command

from .commands import last_object


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (ConfigError("x"), 2, "ConfigError"),
        (KeyError("x"), 1, "KeyError"),
        (RecursionError("x"), 1, "RecursionError"),
        (MemoryError(), 1, "MemoryError"),
        (KeyboardInterrupt(), 130, "KeyboardInterrupt"),
        (ExceptionGroup("x", [OSError()]) if sys.version_info >= (3, 11) else OSError(), 1, None),
    ],
)
def test_every_error_ends_in_one_line_and_one_object(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, kind: str | None
) -> None:
    def fail() -> int:
        raise error

    assert run_command(["--json"], fail) == code
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert last_object(captured.out)["kind"] == (kind or type(error).__name__)
    assert run_command([], fail) == code
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "words",
    [[], ["fly"], ["generate", "--fly"], ["generate", "--threads", "x"], ["verify"], ["info", "x"],
     ["generate", "--shots"], ["verify", "x", "--dtype", "int8"]],
)  # fmt: skip
@pytest.mark.parametrize("flag", ["--json", "--js"])
def test_unknown_words_have_their_json_too(
    capsys: pytest.CaptureFixture[str], words: list[str], flag: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*words, flag])
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert last_object(captured.out)["kind"] == "UsageError"
    assert captured.err.startswith("usage: python -m shotstream_rt")
    assert captured.err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    "words",
    [
        ["--fly"],
        ["compare", "x"],
        ["compare", "/no", "/no"],
        ["--workload", "none"],
        ["profile", "--shots", "0"],
    ],
)
def test_the_bench_ends_in_the_same_way(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    try:
        code = run_bench([*words, "--json"] if words[0] != "profile" else words)
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    captured = capsys.readouterr()
    assert code == 2
    assert "Traceback" not in captured.err
    if words[0] != "profile":
        assert last_object(captured.out).keys() == {"error", "kind"}


def damage(change: Callable[[dict[str, Any]], None]) -> Callable[[Path, dict[str, Any]], None]:
    def apply(folder: Path, meta: dict[str, Any]) -> None:
        change(meta)
        (folder / "g_teacher.json").write_text(json.dumps(meta), "utf-8")

    return apply


@pytest.mark.parametrize(
    "change",
    [
        damage(dict.clear),
        damage(lambda meta: meta.update(guidance=[])),
        damage(lambda meta: meta.update(config={"dim": "x"})),
        damage(lambda meta: meta.update(latent_hw=5)),
        damage(lambda meta: meta.update(weights="none")),
        lambda folder, _: (folder / "g_teacher.json").write_text("[]", "utf-8"),
        lambda folder, _: (folder / "g_teacher.json").write_text("[" * 10**5, "utf-8"),
        lambda folder, _: (folder / "g_teacher.json").unlink(),
        lambda folder, _: save_file({"x": torch.zeros(1)}, folder / "g_teacher.safetensors"),
    ],
)
def test_broken_golden_files_are_mistakes_of_the_user(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path, dict[str, Any]], None],
) -> None:
    golden = Path(__file__).parents[1] / "golden"
    for name in ("g_teacher.json", "g_teacher.safetensors", "weights_m64.json",
                 "weights_m64.safetensors"):  # fmt: skip
        (tmp_path / name).write_bytes((golden / name).read_bytes())
    change(tmp_path, json.loads((golden / "g_teacher.json").read_text("utf-8")))
    assert main(["verify", str(tmp_path), "--json"]) == 2
    captured = capsys.readouterr()
    assert "g_teacher" in captured.err
    assert captured.err.count("\n") == 1
    assert last_object(captured.out)["kind"] in ("ConfigError", "WeightsError")


def test_verify_leaves_the_thread_count_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    golden = str(Path(__file__).parents[1] / "golden")
    before = torch.get_num_threads()
    assert main(["verify", golden, "--case", "a_", "--threads", str(before + 1)]) == 0
    assert torch.get_num_threads() == before
    assert main(["verify", golden, "--threads", "0"]) == 2
