"""A process that goes on with a film for about a chunk whenever it is told to, then lets it go.

It is what a server does, without the network: its films, in the store, watched by one viewer.
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import TracebackType

from shotstream_rt.serve import live_film
from shotstream_rt.serve.film_settings import FilmSettings
from shotstream_rt.serve.films import Films
from shotstream_rt.serve.fragments import FragmentEncoder
from shotstream_rt.serve.limits import Limits
from shotstream_rt.serve.store import FolderStore
from shotstream_rt.serve.viewer import Viewer

CHUNK = 12
TEXTS = (
    "Wide shot: a red cat walks right on a beach.",
    "Close-up: a blue robot stands still in a forest.",
    "Medium shot: a green bunny jumps in a city.",
)


class MovingProcess:
    """Starts one and talks to it.

    Args:
        store: folder of the store.
    """

    def __init__(self, store: Path) -> None:
        root = Path(__file__).resolve().parents[2]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.serve.moving_process", str(store)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root,
        )  # fmt: skip

    def begin(self, shots: int) -> str:
        """Make a film with so many short shots, and return its id."""
        return self._say(f"begin {shots}")

    def go_on(self, film: str) -> int:
        """Show a chunk more and let the film go; returns how many frames it has."""
        return int(self._say(f"go {film}"))

    def _say(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        assert answer, line
        return answer

    def __enter__(self) -> MovingProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate()


async def _obey(films: Films, line: str) -> str:
    word, argument = line.split()
    if word == "begin":
        film = await films.open(11)
        for text in itertools.islice(itertools.cycle(TEXTS), int(argument)):
            film.session.cut(text, chunks=2)
        await films.close_film(film, "it moves", "server")
        return film.id
    film = await films.reach(argument)
    await films.admit(film)
    wanted = film.frames + CHUNK
    film.join(Viewer(films.limits, films.metrics, video=False))
    while film.frames < wanted and not film.session.state.idle:
        await asyncio.sleep(0.005)
    if film.session.state.idle:
        await film.finish_chunk()
    await films.close_film(film, "it moves", "server")
    return str(film.frames)


async def _main() -> None:
    settings = FilmSettings(threads=1, at_end="hold", capacity=100)
    films = Films(settings, Limits(), store=FolderStore(sys.argv[1]))
    while line := await asyncio.to_thread(sys.stdin.readline):
        sys.stdout.write(f"{await _obey(films, line)}\n")
        sys.stdout.flush()
    await films.close()


if __name__ == "__main__":
    live_film.FragmentEncoder = partial(FragmentEncoder, crf=0)  # type: ignore[misc,assignment]
    asyncio.run(_main())
