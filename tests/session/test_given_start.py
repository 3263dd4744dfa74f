"""A shot that begins with given frames, or is made from them."""

from __future__ import annotations

import json
import wave
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from shotstream_rt import ConfigError, Session
from shotstream_rt.backends.cuda_graph import CudaGraphBackend
from shotstream_rt.backends.eager import EagerBackend
from shotstream_rt.cli import main
from shotstream_rt.film import snapshot
from shotstream_rt.film.replay import sealed
from shotstream_rt.kernels.sets.kernel_set import TORCH_OPS
from shotstream_rt.media.source import read_clip
from shotstream_rt.media.video import VideoWriter
from shotstream_rt.model.bound_student import BoundStudent
from shotstream_rt.model.captions import CaptionSet
from shotstream_rt.model.student import Student
from shotstream_rt.pipeline import Pipeline
from shotstream_rt.plan.noise import HOST, PhiloxNoise
from shotstream_rt.plan.students import STUDENTS

from .conftest import TEXT_LEN, fake_bundle

Films = Callable[..., Session]
KEEPS = [
    name for name, student in STUDENTS.items()
    if student.rollout.start == "frames" and not student.cache.context_frames
]  # fmt: skip
ENTERS_LATE = ["shotstream", "longlive", "infinity-rope", "causal-forcing-2step"]
"""One student of each kind that makes a shot from given frames."""


def clip(frames: int, seed: int = 1) -> NDArray[np.uint8]:
    """Grey blocks, one for each latent pixel; the same in the frames of one latent."""
    levels = np.random.default_rng(seed).integers(40, 216, (1 + (frames - 1 + 3) // 4, 2, 4, 1))
    blocks = levels.repeat(8, 1).repeat(8, 2).repeat(3, 3).astype(np.uint8)
    return np.concatenate((blocks[:1], blocks[1:].repeat(4, 0)))[:frames]


def film(session: Session) -> list[tuple[int, int, int, bytes]]:
    return [(c.index, c.shot, c.chunk, c.pixels.tobytes()) for c in session.chunks()]


def start_of(name: str) -> NDArray[np.uint8]:
    """A start of two chunks."""
    return clip(8 * STUDENTS[name].shot.chunk_frames - 3)


@pytest.mark.parametrize("name", KEEPS)
def test_a_shot_shows_what_it_is_given_and_goes_on(name: str, open_student: Films) -> None:
    session, plain = open_student(name), open_student(name)
    given = start_of(name)
    session.cut("a", start=given)
    plain.cut("a")
    chunks, others = list(session.chunks()), list(plain.chunks())
    assert [c.chunk for c in chunks] == list(range(6))
    assert [len(c.pixels) for c in chunks] == [len(c.pixels) for c in others]
    shown = np.concatenate([c.pixels for c in chunks])
    away = np.abs(shown[: len(given)].astype(int) - given)
    assert away.max() <= 1
    # Noise has the address of the chunk behind the start, so what differs is what was read.
    assert not np.array_equal(chunks[2].pixels, others[0].pixels[-len(chunks[2].pixels) :])
    other = open_student(name)
    other.cut("a", start=clip(len(given), seed=2))
    assert not np.array_equal(list(other.chunks())[2].pixels, chunks[2].pixels)


@pytest.mark.parametrize(
    "name,strength",
    [("self-forcing", None), ("causal-forcing-framewise", None), ("infinity-rope", None),
     ("shotstream", 0.5), ("infinity-rope", 0.5), ("causal-forcing-2step", 0.5)],
)  # fmt: skip
def test_a_film_with_a_start_is_saved_and_played_again(
    name: str, strength: float | None, open_student: Films
) -> None:
    options = {"start": start_of(name), "strength": strength}
    whole, session = open_student(name), open_student(name)
    for opened in (whole, session):
        opened.cut("a", **options)
        opened.cut("b")
        opened.cut("c", chunks=3, **options)
    expected = film(whole)
    chunks = session.chunks()
    got = [next(chunks) for _ in range(4)]
    data, branch = session.snapshot(), session.branch()
    rest = expected[len(got) :]
    restored = open_student(name, seed=99)
    restored.restore(data)
    assert film(restored) == rest
    assert film(branch) == rest
    branch.close()
    again = open_student(name)
    again.restore(restored.snapshot())  # all of it was read
    again.cut("d")
    assert film(again)
    told = json.loads(json.dumps(whole.directions()))
    assert [("start" in one) for one in told["directions"]] == [True, False, True]
    played = open_student(name)
    frames = b"".join(f.pixels.tobytes() for f in played.replay(told))
    assert frames == b"".join(entry[3] for entry in expected)


def test_what_was_undone_is_told_without_latents(open_student: Films) -> None:
    session = open_student("self-forcing")
    for text in "ab":
        session.cut(text, start=clip(9), chunks=2)
    list(session.stream())
    session.undo(frame=5)
    (undone,) = session.directions()["undone"]
    (begun,) = undone["directions"]
    assert begun["text"] == "b"
    assert "start" not in begun


def test_a_retake_begins_with_the_same_start_and_going_back_too(open_student: Films) -> None:
    session = open_student("self-forcing")
    session.cut("a", start=start_of("self-forcing"))
    first = film(session)
    session.undo(chunks=5)
    assert film(session) == first[1:]
    session.retake()
    second = film(session)
    assert [entry[3] for entry in second[:2]] == [entry[3] for entry in first[:2]]
    assert all(one[3] != other[3] for one, other in zip(first[2:], second[2:], strict=True))


def test_a_start_where_a_cut_keeps_the_caches_begins_anew(open_student: Films) -> None:
    films = []
    for first in ("a", "another beginning"):
        session = open_student("infinity-rope")
        session.cut(first)
        session.cut("b", start=start_of("infinity-rope"))
        session.cut("c")
        films.append([entry[3] for entry in film(session)])
    assert films[0][:6] != films[1][:6]
    assert films[0][6:] == films[1][6:]


@pytest.mark.parametrize("name", ENTERS_LATE)
def test_a_little_strength_stays_nearer_to_the_frames(name: str, open_student: Films) -> None:
    given, distances = start_of(name), []
    for strength in (0.01, 1.0):
        session = open_student(name)
        session.cut("a", start=given, strength=strength)
        made = np.concatenate([c.pixels for c in session.chunks()])[: len(given)]
        distances.append(np.abs(made.astype(int) - given).mean())
    assert distances[0] < distances[1]
    plain = open_student(name)
    plain.cut("a")
    assert np.array_equal(made, np.concatenate([c.pixels for c in plain.chunks()])[: len(given)])


@pytest.mark.parametrize(
    "name,options,message",
    [
        ("self-forcing", {"start": clip(8)}, r"got 8 frame\(s\), wanted .* 9, 21, 33"),
        ("self-forcing", {"start": clip(1)[0]}, r"got 1 frame\(s\), wanted .* 9, 21, 33"),
        ("self-forcing", {"start": clip(69)}, "up to 57"),  # the whole shot
        ("self-forcing", {"start": clip(9), "chunks": 1}, "shot of one chunk"),
        ("self-forcing", {"start": clip(9)[:, :8]}, r"uint8 \(9, 8, 32, 3\), wanted .* 16x32"),
        ("self-forcing", {"start": clip(9) / 255}, r"got float64 .*, wanted uint8"),
        ("self-forcing", {"start": clip(9)[..., 0]}, "wanted uint8"),
        ("self-forcing", {"start": "cat.png"}, "wanted uint8"),
        ("self-forcing", {"start": [clip(2), 1]}, "start: got"),
        ("self-forcing", {"strength": 0.5}, "without a start"),
        ("self-forcing", {"start": clip(9), "strength": 0}, "above 0"),
        ("self-forcing", {"start": clip(9), "strength": float("nan")}, "above 0"),
        ("self-forcing", {"start": clip(9), "strength": True}, "above 0"),
        ("self-forcing", {"start": clip(9), "strength": "much"}, "above 0"),
        ("shotstream", {"start": clip(9)}, "as context"),
        ("longlive", {"start": clip(9)}, "authors define no given start"),
        ("rolling-forcing", {"start": clip(9)}, "several chunks at once"),
        ("rolling-forcing", {"start": clip(9), "strength": 0.5}, "several chunks at once"),
        ("causal-forcing-1step", {"start": clip(1), "strength": 0.5}, "one denoising step"),
    ],
)
def test_a_start_that_cannot_be_used_says_so(
    name: str, options: dict[str, Any], message: str, open_student: Films
) -> None:
    session = open_student(name)
    with pytest.raises(ConfigError, match=message):
        session.cut("a", **options)
    session.cut("a", chunks=2)
    assert len(film(session)) == 2


def test_how_long_a_start_may_be(open_student: Films) -> None:
    session = open_student("self-forcing")
    assert session.start_lengths() == (9, 21, 33, 45, 57)
    assert session.start_lengths(strength=0.5)[-1] == 69 == session.shot_frames
    assert session.start_lengths(chunks=2) == (9,)
    assert open_student("causal-forcing-framewise").start_lengths() == (1, 5, 9, 13, 17)


def test_views_of_any_order_are_taken(open_student: Films) -> None:
    session, frames = open_student("self-forcing"), clip(9)
    flipped = frames[::-1, :, ::-1, ::-1]
    for start in (flipped, np.ascontiguousarray(flipped)):
        session.cut("a", start=start, chunks=2, seed=1)
    first, second = np.split(np.stack([frame.pixels for frame in session.stream()]), 2)
    assert np.array_equal(first[:9], second[:9])


def test_what_a_caller_does_to_its_frames_later_is_not_seen(open_student: Films) -> None:
    session, calm = open_student("self-forcing"), open_student("self-forcing")
    given = clip(9)
    session.pause()
    session.cut("a", start=given)
    calm.cut("a", start=clip(9))
    given[:] = 0
    session.resume()
    assert film(session) == film(calm)


@pytest.mark.parametrize(
    "damage",
    [
        {"strength": 2.0}, {"strength": "much"}, {"latents": "!"}, {"latents": 5},
        {"latents": "AAAA"}, {"more": 1},
    ],
)  # fmt: skip
def test_a_damaged_start_in_a_film_is_refused(damage: dict[str, Any], open_student: Films) -> None:
    session = open_student("self-forcing")
    session.cut("a", start=clip(9))
    film(session)
    told = json.loads(json.dumps(session.directions()))
    told["directions"][0]["start"] |= damage
    del told["checksum"]
    with pytest.raises(ConfigError, match=r"film\.json: damaged \((start|strength): "):
        session.replay(sealed(told))


@pytest.mark.parametrize("shape", [(1, 2, 16, 2, 4), (1, 21, 16, 2, 4), (1, 3, 16, 4, 4), (3,)])
def test_a_snapshot_with_an_impossible_start_is_refused(
    shape: tuple[int, ...], open_student: Films, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_student("self-forcing")
    session.pause()
    session.cut("a", start=clip(9))
    written = snapshot.save
    monkeypatch.setattr(
        snapshot, "save",
        lambda tensors, **more: written({**tensors, "start.0": torch.zeros(shape)}, **more),
    )  # fmt: skip
    data = session.snapshot()
    with pytest.raises(ConfigError, match=r"damaged \(start: got"):
        session.restore(data)


class ShiftedNoise:
    """Noise of the chunks behind the first ones."""

    def __init__(self, chunks: int) -> None:
        self._chunks, self._noise = chunks, PhiloxNoise(7)

    def draw(
        self, shot: int, chunk: int, step: int, shape: Sequence[int], device: torch.device = HOST
    ) -> Tensor:
        return self._noise.draw(shot, chunk + self._chunks, step, shape, device)


CAPTIONS = CaptionSet(embeddings=torch.ones(1, TEXT_LEN, 2), lengths=(3,))


def pipeline_of(name: str, *, captured: bool = False) -> Pipeline:
    torch.manual_seed(3)
    config = STUDENTS[name].stream(fake_bundle().config.model)
    student = Student(config.model).requires_grad_(False)
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    bound = BoundStudent.from_student(student, TORCH_OPS)
    if captured:
        backend = CudaGraphBackend(bound, config, lambda: lambda function: function)
        return Pipeline(config, backend.new_film())
    return Pipeline(config, EagerBackend(bound, config).new_film())


def begin(pipeline: Pipeline, shot: int = 0, **options: Any) -> None:
    config = pipeline.config
    flags = [0] * config.cache.context_frames
    context = torch.zeros(1, len(flags), *pipeline.latent_shape[2:])
    captions = CAPTIONS
    if flags and config.shot.multi_caption:
        captions = CaptionSet(embeddings=torch.ones(2, TEXT_LEN, 2), lengths=(3, 3))
    pipeline.begin_shot(shot, context, flags, captions, 1, **options)


def run(pipeline: Pipeline, chunk: int, noise: Any) -> Tensor:
    made = pipeline.run_chunk(chunk, noise).clone()
    pipeline.commit()
    return made


@pytest.mark.parametrize("name", ["self-forcing", "infinity-rope", "causal-forcing-framewise"])
@pytest.mark.parametrize("captured", [False, True])
def test_a_film_goes_on_from_its_own_chunks_as_it_did(name: str, captured: bool) -> None:
    straight, given = (pipeline_of(name, captured=captured) for _ in range(2))
    begin(straight)
    made = [run(straight, chunk, PhiloxNoise(7)) for chunk in range(5)]
    begin(given, given=torch.cat(made[:2], 1))
    again = [run(given, chunk, ShiftedNoise(2)) for chunk in range(5)]
    assert all(torch.equal(one, other) for one, other in zip(made, again, strict=True))


@pytest.mark.parametrize("name", ENTERS_LATE)
@pytest.mark.parametrize("captured", [False, True])
def test_entering_with_the_estimate_of_the_step_before_gives_the_same(
    name: str, captured: bool
) -> None:
    straight = pipeline_of(name, captured=captured)
    estimates: list[list[Tensor]] = []
    denoise = straight.film.denoise

    def noted(step: int) -> Tensor:
        estimates[-1].append(denoise(step).clone())
        return estimates[-1][-1]

    straight.film.denoise = noted  # type: ignore[method-assign]
    begin(straight)
    made = []
    for chunk in range(3):
        estimates.append([])
        made.append(run(straight, chunk, PhiloxNoise(7)))
    for strength, before in ((0.5, -3), (0.25, -2)):
        if any(len(steps) < -before for steps in estimates):
            continue  # fewer steps than that
        late = pipeline_of(name, captured=captured)
        begin(late, given=torch.cat([steps[before] for steps in estimates], 1), strength=strength)
        again = [run(late, chunk, PhiloxNoise(7)) for chunk in range(3)]
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(made, again, strict=True))


def test_a_shot_given_up_for_one_without_a_start_leaves_the_kept_caches() -> None:
    straight, other = (pipeline_of("infinity-rope") for _ in range(2))
    for pipeline in (straight, other):
        begin(pipeline)
        for chunk in range(3):
            run(pipeline, chunk, PhiloxNoise(7))
    begin(other, 1, given=torch.ones(1, 6, 16, 2, 4))
    for pipeline in (straight, other):
        begin(pipeline, 1)
    assert torch.equal(run(straight, 0, PhiloxNoise(7)), run(other, 0, PhiloxNoise(7)))


@pytest.fixture
def student_model(open_student: Films, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets the next ``Session.open`` give a session of a student."""

    def choose(name: str) -> None:
        monkeypatch.setattr(Session, "open", lambda *_, **__: open_student(name))

    return choose


def write_clip(path: Path, frames: NDArray[np.uint8], rate_hz: int) -> Path:
    with VideoWriter(path, height=16, width=32, frame_rate_hz=rate_hz, crf=0) as writer:
        for pixels in frames:
            writer.write(pixels)
    return path


def generated(arguments: list[str], tmp_path: Path) -> list[NDArray[np.uint8]]:
    """Run the command, and return the frames of its film."""
    folder = tmp_path / "frames"
    assert main(["generate", "-q", "--frames-dir", str(folder), *arguments]) == 0
    return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]


def test_a_clip_on_the_command_line(student_model: Callable[[str], None], tmp_path: Path) -> None:
    student_model("self-forcing")
    given = clip(30)  # nine frames too many
    path = write_clip(tmp_path / "clip.mp4", given, 16)
    made = generated(["-p", "a", "--video", str(path)], tmp_path)
    assert len(made) == 69
    away = np.abs(np.stack(made[:21]).astype(int) - given[:21])
    assert np.median(away) <= 6  # grey to the luma of a film and back
    story = tmp_path / "story.json"
    story.write_text(json.dumps({"global_caption": "all", "shot1": "a", "shot2": "b"}))
    student_model("self-forcing")
    both = generated([str(story), "--video", str(path)], tmp_path)
    assert len(both) == 2 * 69
    assert np.array_equal(both[0], made[0])


def test_a_picture_on_the_command_line_and_a_strength(
    student_model: Callable[[str], None], tmp_path: Path
) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(clip(1)[0]).resize((96, 48), Image.Resampling.NEAREST).save(photo)
    student_model("causal-forcing-framewise")
    made = generated(["-p", "a", "--image", str(photo)], tmp_path)
    assert np.abs(made[0].astype(int) - clip(1)[0]).mean() < 12  # scaled down again
    student_model("shotstream")
    seen = generated(["-p", "a", "--image", str(photo)], tmp_path)
    student_model("shotstream")
    assert not np.array_equal(seen[0], generated(["-p", "a"], tmp_path)[0])
    student_model("shotstream")
    path = write_clip(tmp_path / "clip.mp4", clip(20), 16)
    late = generated(["-p", "a", "--video", str(path), "--strength", "0.25"], tmp_path)
    student_model("shotstream")
    assert not np.array_equal(late[0], generated(["-p", "a"], tmp_path)[0])


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--image", "IMAGE", "--video", "CLIP"], "one of them"),
        (["--strength", "0.5"], "with it"),
        (["--video", "CLIP", "--strength", "1.5"], "above 0"),
        (["--image", "nowhere.png"], "no such file"),
        (["--image", "CLIP"], "not a JPEG, PNG or WebP"),
        (["--video", "TEXT"], "cannot be read as a clip"),
        (["--video", "FOLDER"], "is a folder"),
        (["--video", "SHORT"], r"got 4 frame(s) at 16 per second, wanted 9 or more"),
        (["--image", "IMAGE"], "got 1 frame(s), wanted whole chunks: 9, 21, 33"),
        (["--video", "SOUND"], "no video in it"),
        (["--image", "WIDE"], "16384 on a side"),
        (["--image", "TEXT"], "not a JPEG, PNG or WebP picture"),
    ],
)
def test_a_start_on_the_command_line_that_cannot_be_used(
    arguments: list[str], message: str, student_model: Callable[[str], None], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    files = {name: tmp_path / name for name in ("IMAGE", "CLIP", "SHORT", "TEXT", "SOUND", "WIDE")}
    files["FOLDER"] = tmp_path
    Image.fromarray(clip(1)[0]).save(files["IMAGE"], "PNG")
    Image.new("1", (16385, 1)).save(files["WIDE"], "PNG")
    files["TEXT"].write_text("no clip")
    for name, frames in (("CLIP", 20), ("SHORT", 4)):
        write_clip(tmp_path / f"{name}.mp4", clip(frames), 16).rename(files[name])
    with wave.open(str(files["SOUND"]), "wb") as sound:
        sound.setparams((1, 2, 8000, 80, "NONE", ""))
        sound.writeframes(bytes(160))
    student_model("self-forcing")
    words = [str(files.get(word, word)) for word in arguments]
    out = tmp_path / "film.mp4"
    assert main(["generate", "-q", "-p", "a", "--out", str(out), *words]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("option,name", [("--video", "a.mp4"), ("--image", "a.png")])
def test_a_start_is_not_written_over(
    option: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(tmp_path / "a.mp4", clip(20), 16)
    Image.fromarray(clip(1)[0]).save(tmp_path / "a.png")
    file = tmp_path / name
    before = file.read_bytes()
    target = "--out" if name.endswith("mp4") else "--sheet"
    assert main(["generate", "-q", "-p", "a", option, str(file), target, str(file)]) == 2
    assert "that is read; choose another name" in capsys.readouterr().err
    assert file.read_bytes() == before


@pytest.mark.parametrize("rate_hz,wanted", [(16, range(8)), (32, range(0, 16, 2)), (8, None)])
def test_a_clip_is_taken_at_the_films_rate(
    rate_hz: int, wanted: range | None, tmp_path: Path
) -> None:
    levels = np.arange(16, dtype=np.uint8)[:, None, None, None] * 15
    path = write_clip(tmp_path / "a.mp4", np.broadcast_to(levels, (16, 16, 32, 3)), rate_hz)
    found = read_clip(path, (16, 32), frame_rate_hz=16, most_frames=8)
    places = [0, 1, 1, 2, 2, 3, 3, 4] if wanted is None else list(wanted)
    assert found.shape == (8, 16, 32, 3)
    assert (np.abs(found.mean((1, 2, 3)) - np.array(places) * 15) < 4).all()
