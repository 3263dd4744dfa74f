"""A whole session played against a server, step by step, to see that it does what it should.

It opens films of its own and closes them again; other films of the server are not touched.
"""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, NoReturn

import av
import httpx

from ..errors import ShotStreamError
from ..printable import printable
from .async_client import AsyncClient, LiveFrame, ServerError, Wait
from .from_server import Applied, Queue
from .server_address import address_of
from .server_error import error_of

Figures = dict[str, Any]
"""What a step measured, as JSON values."""

_FRAMES = 24
_VIDEO_S = 1


class _WrongError(ShotStreamError):
    """The server did something else than it should."""


class Doctor:
    """One examination of one server.

    Args:
        url: of the server, as ``serve`` prints it; the token in its fragment is taken.
        token: the director's, instead of the fragment's.
        timeout_s: longest wait for each step in seconds.
        tell: called with a line about each step when it is over, and with the place in the line
            where the film has to wait for its turn.

    Raises:
        ConfigError: the address cannot be used, or carries no token and none is given.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 120,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._address, self._token, _ = address_of(url, token=token)
        self._timeout_s, self._tell = timeout_s, tell
        self._http = httpx.AsyncClient(
            base_url=self._address,
            headers={"Authorization": f"Bearer {self._token}"},
            timeout=timeout_s,
        )
        self._opened: list[str] = []
        self._client: AsyncClient | None = None
        self._frames: AsyncIterator[LiveFrame] | None = None
        self._place: Queue | None = None  # in the line, as this step was told last

    async def examine(self) -> dict[str, Any]:
        """Take every step, up to the first that fails, and close what was opened.

        Returns:
            JSON values: ``url``, ``passed``, and ``steps``, each with its ``name``, ``passed``,
            ``seconds``, what it measured, and where it failed an ``error`` as the server tells it.
        """
        steps: list[dict[str, Any]] = []
        try:
            for name, step in self._steps():
                steps.append(await self._take(name, step))
                if not steps[-1]["passed"]:
                    break
        finally:
            await self._clean_up()
        passed = all(step["passed"] for step in steps)
        return {"url": self._address, "passed": passed, "steps": steps}

    def _steps(self) -> tuple[tuple[str, Callable[[], Awaitable[Figures]]], ...]:
        return (
            ("reach", self._reach),
            ("open", self._open),
            ("join", self._join),
            ("cut", self._cut),
            ("prompt", self._prompt),
            ("undo", self._undo),
            ("resume", self._resume),
            ("branch", self._branch),
            ("tokens", self._tokens),
            ("download", self._download),
            ("close", self._close),
            ("video", self._video),
        )

    async def _take(self, name: str, step: Callable[[], Awaitable[Figures]]) -> dict[str, Any]:
        begin_s, self._place = time.monotonic(), None
        told: dict[str, Any] = {"name": name, "passed": False}
        try:
            async with asyncio.timeout(self._timeout_s):
                told |= await step()
            told["passed"] = True
        except ServerError as error:
            told["error"] = {
                "code": error.code, "message": str(error), "retryable": error.retryable,
            }  # fmt: skip
        except TimeoutError:
            message = f"it did not come to an end in {self._timeout_s:g} s"
            if self._place is not None:
                message += f": the film {_waits(self._place)}"
            code = "failed" if self._place is None else "full"
            told["error"] = {"code": code, "message": message, "retryable": True}
        except Exception as error:
            message = f"{type(error).__name__}: {printable(error, 500)}"
            told["error"] = {"code": "failed", "message": message, "retryable": False}
        told["seconds"] = round(time.monotonic() - begin_s, 3)
        why = "" if told["passed"] else f": {told['error']['message']}"
        verdict = "ok" if told["passed"] else "FAILED"
        self._tell(f"{name:9} {verdict:6} {told['seconds']:7.2f} s{why}")
        return told

    # The steps.

    async def _reach(self) -> Figures:
        document = (await self._ask("GET", "/v1/openapi.json")).json()
        return {"version": document["info"]["version"]}

    async def _open(self) -> Figures:
        film = (await self._ask("POST", "/v1/sessions", 201, json={})).json()
        self._opened.append(film["id"])
        return {"session": film["id"]}

    async def _join(self) -> Figures:
        begin_s = time.monotonic()
        self._client = await AsyncClient.join(
            self._address, token=self._token, session=self._opened[0], on_wait=self._hear_wait
        )
        waited_s = 0.0 if self._place is None else time.monotonic() - begin_s
        self._frames = self._client.frames()
        welcome = self._client.welcome
        return {
            "queue_ms": _ms(waited_s),
            "model": welcome.model,
            "width": welcome.width,
            "height": welcome.height,
            "frame_rate_hz": welcome.frame_rate_hz,
            "codec": welcome.codec,
        }

    async def _cut(self) -> Figures:
        film, asked_s = self._film, time.monotonic()
        ask = await film.cut(film.welcome.suggestions[0])
        accepted_s = time.monotonic()
        await self._next_frame()
        shown_s = time.monotonic()
        applied = await self._applied(ask)
        await self._follow(applied.frame + _FRAMES)
        return {
            "accepted_ms": _ms(accepted_s - asked_s),
            "first_frame_ms": _ms(shown_s - asked_s),
            "applied_ms": applied.after_ms,
        }

    async def _prompt(self) -> Figures:
        film = self._film
        ask = await film.prompt(film.welcome.suggestions[-1])
        applied = await self._applied(ask)
        await self._follow(applied.frame)
        return {"applied_ms": applied.after_ms, "frames_before": applied.frame - ask.frame}

    async def _undo(self) -> Figures:
        ask = await self._film.undo(chunks=1)
        applied = await self._applied(ask)
        await self._follow(applied.frame)
        return {"applied_ms": applied.after_ms, "index": applied.index}

    async def _resume(self) -> Figures:
        last = await self._next_frame()
        self._film.lose()
        lost_s, back_s = time.monotonic(), None
        missed = more = 0
        while more < _FRAMES:
            frame = await self._next_frame()
            if frame <= last:
                _wrong(f"frame {frame} came after {last}")
            missed, last = missed + frame - last - 1, frame
            if self._film.reconnects:
                back_s = back_s or time.monotonic()
                more += 1
        return {"back_ms": _ms((back_s or lost_s) - lost_s), "missed": missed}

    async def _branch(self) -> Figures:
        try:
            other = await self._film.branch()
        except ServerError as error:
            if error.code == "full":  # a server with room for one film is in good health
                return {"left_out": str(error)}
            raise
        self._opened.append(other)
        figures: Figures = {"session": other}
        if (await self._ask("GET", f"/v1/sessions/{other}")).json()["state"] == "asleep":
            figures["left_out"] = "the branch waits in line: no more films can play at one time"
        else:
            await self._look_at_branch(other)
        await self._ask("DELETE", f"/v1/sessions/{other}", 204)
        self._opened.remove(other)
        return figures

    async def _look_at_branch(self, other: str) -> None:
        async with await AsyncClient.join(
            self._address, token=self._token, session=other, video=False
        ) as branch:
            if not branch.welcome.begun:
                _wrong("the branch has no past")

    async def _tokens(self) -> Figures:
        place = f"/v1/sessions/{self._opened[0]}"
        made = (await self._ask("POST", f"{place}/tokens", 201, json={"seconds": 600})).json()
        viewer = {"Authorization": f"Bearer {made['token']}"}
        nobody = {"Authorization": "Bearer nobody"}
        await self._ask("GET", place, 200, headers=viewer)
        await self._ask("DELETE", place, 403, headers=viewer)
        await self._ask("POST", "/v1/sessions", 403, headers=viewer, json={})
        await self._ask("GET", place, 401, headers=nobody)
        async with await AsyncClient.join(
            self._address, token=made["token"], video=False
        ) as watching:
            if (watching.session, watching.welcome.role) != (self._opened[0], "viewer"):
                _wrong(f"the link shows {watching.session} as {watching.welcome.role}")
        return {"expires_at": made["expires_at"]}

    async def _download(self) -> Figures:
        film = self._film
        await film.pause()
        file = await film.download()
        frames = _frames_in(file)
        directions = json.loads((await self._get("film.json")).content)["directions"]
        if not frames or not directions:
            _wrong(f"the film has {frames} frames and {len(directions)} directions")
        ratio = None if film.stats is None else film.stats.play_ratio
        return {
            "bytes": len(file), "frames": frames, "directions": len(directions),
            "play_ratio": ratio,
        }  # fmt: skip

    async def _close(self) -> Figures:
        place = f"/v1/sessions/{self._opened[0]}"
        await self._ask("DELETE", place, 204)
        await self._ask("GET", place, 404)
        self._opened.pop(0)
        return {}

    async def _video(self) -> Figures:
        text = self._film.welcome.suggestions[0]
        wanted = {"prompt": text, "seconds": _VIDEO_S}
        video = (await self._ask("POST", "/v1/videos", 201, json=wanted)).json()
        place = f"/v1/videos/{video['id']}"
        try:
            while video["status"] in ("queued", "in_progress"):
                await asyncio.sleep(0.1)
                video = (await self._ask("GET", place)).json()
            if video["error"]:
                raise ServerError(video["error"]["code"], video["error"]["message"])
            file = (await self._ask("GET", f"{place}/content")).content
        finally:
            await self._ask("DELETE", place)
        frames = _frames_in(file)
        return {"bytes": len(file), "frames": frames}

    # What they share.

    @property
    def _film(self) -> AsyncClient:
        assert self._client is not None, "join first"
        return self._client

    async def _next_frame(self) -> int:
        assert self._frames is not None, "join first"
        return (await anext(self._frames)).frame

    def _hear_wait(self, wait: Wait) -> None:
        if isinstance(wait, Queue):
            if wait != self._place:
                self._tell(f"          the film {_waits(wait)}")
            self._place = wait

    async def _follow(self, frame: int) -> None:
        """See frames until one has come."""
        while await self._next_frame() < frame:
            pass

    async def _applied(self, ask: Any) -> Applied:
        outcome = await self._film.outcome(ask)
        if not isinstance(outcome, Applied):
            _wrong(f"the ask is {outcome.state}: {outcome.message}")
        return outcome

    async def _get(self, name: str) -> httpx.Response:
        return await self._ask("GET", f"/v1/sessions/{self._opened[0]}/{name}")

    async def _ask(
        self, method: str, path: str, status: int = 200, **options: Any
    ) -> httpx.Response:
        """Ask over HTTP and return the answer, which has to have a status.

        Raises:
            ServerError: the server answered an error that was not to come.
        """
        try:
            answer = await self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise ServerError("unavailable", f"{self._address}: {error}") from error
        if answer.status_code == status:
            return answer
        if answer.is_error:
            raise error_of(answer)
        raise _WrongError(f"{method} {path}: answered {answer.status_code}, wanted {status}")

    async def _clean_up(self) -> None:
        with suppress(Exception):
            if self._client is not None:
                await self._client.close()
            for film in self._opened:
                await self._ask("DELETE", f"/v1/sessions/{film}", 204)
        await self._http.aclose()


def _wrong(what: str) -> NoReturn:
    raise _WrongError(what)


def _waits(place: Queue) -> str:
    return f"waits in line, {place.position} of {place.length}: others play as many films as can"


def _frames_in(file: bytes) -> int:
    container: Any = av.open(io.BytesIO(file))
    with container:
        return len(list(container.decode(video=0)))


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)
