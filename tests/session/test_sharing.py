"""Sessions of one model: each makes the film it makes alone, and the last one frees the model."""

from __future__ import annotations

import gc
import json
import os
import random
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from shotstream_rt import ConfigError, DeviceError, Model, ModelClosedError, Session
from shotstream_rt.backends import registry
from shotstream_rt.backends.request import BackendRequest
from shotstream_rt.config import CacheConfig, ModelConfig, ScheduleConfig, ShotConfig, StreamConfig
from shotstream_rt.model.nano.codec import CodecDepths, NanoCodec, NanoCodecNet
from shotstream_rt.model.nano.text import TEXT_DIM, TEXT_LEN, NanoTextEncoder, NanoTextNet
from shotstream_rt.model.student import Student

from .caption_sets import caption_set

ORDERS = int(os.environ.get("SHOTSTREAM_ORDERS", "60"))
"""Of calls of four films, each another one; ``.ci/run`` tries more."""

CAPTIONS = ("wide shot of a red cat on a beach", "a blue robot in a forest", "a green dog at night")


@pytest.fixture(scope="module")
def nano() -> Iterator[Model]:
    with Model.open("nano", device="cpu", size="32x48") as model:
        yield model


@pytest.fixture(scope="module")
def small() -> Iterator[Model]:
    """Nano's networks, small and random; films of them write all that a film can write."""
    torch.manual_seed(7)
    config = StreamConfig(
        model=ModelConfig(
            dim=24, ffn_dim=32, num_heads=2, num_layers=1, text_dim=TEXT_DIM, text_len=TEXT_LEN,
            latent_height=2, latent_width=4,
        ),
        cache=CacheConfig(context_frames=2, sink_frames=1, window_frames=2),
        shot=ShotConfig(chunk_frames=1, shot_frames=3),
        schedule=ScheduleConfig(denoising_steps=(1000, 500)),
    )  # fmt: skip
    depths = CodecDepths(encoder_quarter=0, encoder_eighth=1, decoder_eighth=1, decoder_quarter=0)
    student, codec, text = Student(config.model), NanoCodecNet(depths), NanoTextNet()
    for module in (student, codec):
        for parameter in module.requires_grad_(False).parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    device = torch.device("cpu")
    request = BackendRequest(
        config=config, device=device, dtype=torch.float32, weights=student.state_dict,
        kernel_set="auto", lossy_parts=(),
    )  # fmt: skip
    with Model(
        name="small", config=config, backend=registry.resolve("eager", request),
        codec=NanoCodec(codec), text=NanoTextEncoder(text), device=device,
    ) as model:  # fmt: skip
        yield model


class Script:
    """One film's calls, drawn by a seed, and what came of each.

    A call is made when the film stands still: its next chunk waits to be read, or nothing more is
    to come. So what it changes does not depend on how fast anything runs.
    """

    KINDS = ("cut", "cut now", "prompt", "retake", "snapshot", "restore", "reopen")

    def __init__(self, model: Model, seed: int) -> None:
        self._model, self._seed = model, seed
        draw = random.Random(seed)
        self._calls = ["cut", "read"]
        for kind in draw.sample(self.KINDS, draw.randint(2, 4)):
            self._calls += ["read"] * draw.randint(0, 1) + [kind]
        # Half of the films are closed in the middle, the others read to their end.
        self._calls += ["read"] * draw.randint(0, 2) if draw.random() < 0.5 else ["read all"]
        self._calls.append("close")
        self._draw = draw
        self._saved = b""
        self.film: list[Any] = []
        self._session = self._open(seed)

    @property
    def done(self) -> bool:
        return not self._calls

    def go_on(self) -> None:
        """Make the next call."""
        call = self._calls.pop(0)
        if call == "close":
            self._session.close()
            return
        if call.startswith("read"):
            while (chunk := next(self._session.chunks(), None)) is not None:
                place = chunk.index, chunk.shot, chunk.chunk
                self.film.append((*place, chunk.pixels.tobytes()))
                if call == "read":
                    return
            return
        self._stand_still()
        try:
            self._ask(call)
            self.film.append(call)
        except ConfigError as refused:  # such as a retake when no shot was begun
            self.film.append(str(refused))

    def close(self) -> None:
        self._session.close()

    def _ask(self, call: str) -> None:
        session, text = self._session, self._draw.choice(CAPTIONS)
        if call in ("cut", "cut now"):
            session.cut(text, now=call == "cut now", take=self._draw.randint(0, 1))
        elif call == "prompt":
            session.prompt(text)
        elif call == "retake":
            session.retake()
        elif call == "snapshot":
            self._saved = session.snapshot()
        elif call == "restore":
            session.restore(self._saved or session.snapshot())
        else:  # the film goes on in a session of its own
            saved = session.snapshot()
            session.close()
            self._session = self._open(self._seed + 1)
            self._session.restore(saved)

    def _open(self, seed: int) -> Session:
        return self._model.session(seed=seed, threads=1, queue_chunks=1)

    def _stand_still(self) -> None:
        film = self._session._film
        timeline, frames = film.timeline, film.frames
        while not (timeline.idle() or (len(frames) == 1 and timeline.in_flight == 0)):
            frames.check()  # a failure ends the wait
            time.sleep(0.0005)


@pytest.mark.parametrize(
    "orders",
    [range(20), pytest.param(range(20, ORDERS), marks=pytest.mark.slow)],
    ids=["first 20", "others"],
)
def test_interleaved_calls_of_four_films_change_none_of_them(small: Model, orders: range) -> None:
    caption_set(
        small.captions, CAPTIONS
    )  # a prompt counts from the boundary at which it is encoded
    alone = {}
    for seed in range(16):
        script = Script(small, seed)
        while not script.done:
            script.go_on()
        alone[seed] = script.film
    entries = [entry for film in alone.values() for entry in film]
    chunks = [entry[3] for entry in entries if isinstance(entry, tuple)]
    assert len(set(chunks)) > 0.8 * len(chunks) > 50  # so films that are mixed up would show
    assert {*entries} > {*Script.KINDS}
    for order in orders:
        draw = random.Random(order)
        scripts = {seed: Script(small, seed) for seed in draw.sample(sorted(alone), 4)}
        try:
            while waiting := [seed for seed, script in scripts.items() if not script.done]:
                scripts[draw.choice(waiting)].go_on()
            for seed, script in scripts.items():
                assert script.film == alone[seed], f"order {order}: film {seed} is another one"
        finally:
            for script in scripts.values():
                script.close()


def whole_shots(session: Session, captions: tuple[str, ...]) -> list[bytes]:
    """All chunks of some shots; what is asked for before reading does not depend on timing."""
    for caption in captions:
        session.cut(caption)
    return [chunk.pixels.tobytes() for chunk in session.chunks()]


def test_films_made_side_by_side_are_those_made_alone(nano: Model) -> None:
    alone = {}
    for seed in range(3):
        with nano.session(seed=seed, threads=1) as session:
            alone[seed] = whole_shots(session, CAPTIONS[: 1 + seed % 2])
    assert len(set(map(tuple, alone.values()))) == 3
    for order in range(2):
        draw, sessions = random.Random(order), {}
        streams: dict[int, Any] = {}
        made: dict[int, list[bytes]] = {seed: [] for seed in range(3)}
        for seed in range(3):
            sessions[seed] = nano.session(seed=seed, threads=1, queue_chunks=1)
            for caption in CAPTIONS[: 1 + seed % 2]:
                sessions[seed].cut(caption)
            streams[seed] = sessions[seed].chunks()
        while streams:
            seed = draw.choice(sorted(streams))
            chunk = next(streams[seed], None)
            if chunk is None:
                sessions[seed].close()
                del streams[seed]
            else:
                made[seed].append(chunk.pixels.tobytes())
        assert made == alone


def test_a_model_is_freed_by_whoever_lets_go_last() -> None:
    model = Model.open("nano", device="cpu", size="32x48")
    first, second = (model.session(seed=seed, threads=1) for seed in range(2))
    model.close()
    assert model.closed
    with pytest.raises(ModelClosedError, match="nano is closed"):
        model.session()
    first.close()
    first.close()  # lets go once only
    second.cut(CAPTIONS[0])
    assert len(list(second.chunks())) == model.config.shot.chunks
    weights = weakref.ref(model.backend._shared.student)  # type: ignore[attr-defined]
    second.close()
    gc.collect()
    assert weights() is None  # though the closed sessions and the model are still referenced
    with pytest.raises(ModelClosedError, match="closed and freed"):
        model.new_pipeline()
    model.close()


def test_a_session_that_cannot_start_lets_go(bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise MemoryError("no room for another film")

    monkeypatch.setattr(bundle, "new_pipeline", fail)
    with pytest.raises(DeviceError, match="no room for another film"):
        Session(bundle)
    bundle.close()
    assert bundle.fake_backend.closed


def test_a_codec_that_does_not_tell_its_type_is_refused_when_a_session_opens(bundle: Any) -> None:
    bundle.fake_codec.dtype = None
    with pytest.raises(ConfigError, match="codec: got FakeCodec with dtype None"):
        Session(bundle)
    bundle.close()
    assert bundle.fake_backend.closed


def test_session_open_owns_its_model(fake_model: list[Any]) -> None:
    with Session.open("fake") as session:
        session.cut("a")
        next(session.chunks())
        assert not fake_model[0].fake_backend.closed
    assert fake_model[0].fake_backend.closed


def test_captions_are_encoded_once_for_all_sessions(bundle: Any) -> None:
    for _ in range(2):
        with Session(bundle) as session:
            session.cut("a cat")
            list(session.chunks())
    assert bundle.fake_text.encoded == ["a cat"]
    bundle.close()


MEMORY_OF_A_SESSION = """
import json, shotstream_rt

def resident_mb():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))

def play(session):
    session.cut("wide shot of a red cat on a beach")
    for _ in session.stream():
        pass

with shotstream_rt.Model.open("nano", device="cpu") as model:
    sessions = [model.session(threads=1) for _ in range(4)]
    play(sessions[0])
    begun = resident_mb()
    sessions.append(model.session(threads=1))
    opened = resident_mb()
    play(sessions[-1])
    print(json.dumps([opened - begun, resident_mb() - begun]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="resident memory as Linux has")
def test_another_session_of_nano_needs_little_memory() -> None:
    # The C library then returns large blocks as they are freed, so that all counted is in use.
    run = subprocess.run(
        [sys.executable, "-c", MEMORY_OF_A_SESSION], capture_output=True, text=True, check=True,
        timeout=300, env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
    )  # fmt: skip
    opened_mb, played_mb = json.loads(run.stdout)
    assert 5 < opened_mb < 20  # the caches
    assert played_mb < 40  # and the float frames of the running shot


def test_opening_nano_on_a_cpu_imports_neither_a_compiler_nor_other_models() -> None:
    code = (
        "import sys, shotstream_rt; shotstream_rt.Session.open('nano', device='cpu').close(); "
        "print([name for name in ('torch._dynamo', 'torch._inductor', 'triton', 'transformers', "
        "'shotstream_rt.model.tiny', 'shotstream_rt.model.wan_vae', 'shotstream_rt.model.umt5') "
        "if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert run.stdout.strip() == "[]"
