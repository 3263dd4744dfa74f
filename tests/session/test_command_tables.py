"""A table of stories: a film for each row, with a history and figures of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shotstream_rt.cli import main
from shotstream_rt.film.stats import SessionStats
from shotstream_rt.loading.load_model import Model

from .commands import SHOT_FRAMES, last_object, write_story


def test_table_makes_one_film_per_row_each_with_a_fresh_history(
    fake_model: list[Model], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_story(tmp_path / "01.json", 3)
    (tmp_path / "set.csv").write_text(
        'json_path,frame_number\n01.json,"[[0, 81], [81, 162]]"\n01.json,"[[0, 81], [81, 162]]"\n',
        "utf-8",
    )
    out = tmp_path / "films" / "film.mp4"
    assert main(["generate", str(tmp_path / "set.csv"), "--out", str(out), "--json", "-q"]) == 0
    report = last_object(capsys.readouterr().out)
    assert report["frames"] == 4 * SHOT_FRAMES
    films = report["films"]
    assert films[0]["sha256"] == films[1]["sha256"], "the second film starts from nothing"
    assert [shot["shot"] for shot in films[1]["shots"]] == [0, 1]
    names = sorted(path.name for path in out.parent.iterdir())
    assert names == ["film_000_text1.mp4", "film_001_text1.mp4"]
    assert len(fake_model) == 1, "the model is loaded once"


def test_a_table_of_more_shots_than_the_session_keeps_has_all_its_figures(
    fake_model: list[Model],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = SessionStats.to_dict
    # The session keeps 256 shots; a film of that many takes too long here.
    monkeypatch.setattr(
        SessionStats, "to_dict", lambda self: {**real(self), "shots": real(self)["shots"][-4:]}
    )
    write_story(tmp_path / "s.json", 7)
    ranges = json.dumps([[0, 81]] * 7)
    (tmp_path / "t.csv").write_text(
        "json_path,frame_number\n" + f's.json,"{ranges}"\n' * 2, "utf-8"
    )
    out = tmp_path / "f.mp4"
    assert main(["generate", str(tmp_path / "t.csv"), "--out", str(out), "--json", "-q"]) == 0
    films = last_object(capsys.readouterr().out)["films"]
    for film in films:
        assert [shot["shot"] for shot in film["shots"]] == list(range(7))
        assert [shot["frames"] for shot in film["shots"]] == [SHOT_FRAMES] * 7
        assert film["frames"] == 7 * SHOT_FRAMES
        seconds = film["shots"][-1]["end_s"] - film["shots"][0]["begin_s"]
        assert film["fps"] == pytest.approx(film["frames"] / seconds, abs=0.02)
    assert films[0]["shots"][-1]["end_s"] <= films[1]["shots"][0]["begin_s"]
