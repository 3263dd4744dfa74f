"""One WebSocket, from the first message to the last: who it is, what it asks for, what it sees."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from functools import partial
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from .films import Films
from .from_server import Error, ErrorCode, Queue, Welcome
from .from_viewer import ASKS, Branch, Hello, MalformedError, read_message
from .limits import Allowance
from .live_film import LiveFilm
from .logs import about
from .message import Message
from .problems import ForbiddenError, problem_of
from .public_names import model_name
from .suggestions import suggestions
from .tokens import Access, Tokens
from .viewer import Viewer

UNAUTHORIZED, FORBIDDEN, NOT_FOUND, TRY_LATER, UNAVAILABLE, FAILED = (
    4401, 4403, 4404, 4429, 4503, 1011,
)  # fmt: skip
"""Codes that a socket is closed with; those of HTTP plus 4000, and the protocol's own."""

_CLOSE_CODES: dict[ErrorCode, int] = {
    "not_found": NOT_FOUND, "full": TRY_LATER, "unavailable": UNAVAILABLE,
}  # fmt: skip

_log = logging.getLogger("shotstream_rt.serve")

_LOADING_S = 0.25
_QUEUE_S = 2.0
"""Seconds after which a place in the line is told again; who has gone is noticed by it."""
_LONGEST_SLEEP_S = 3600
_FAREWELL_S = 2
"""How long a refused viewer may take to read why."""


class _Refused(Exception):  # noqa: N818 - it ends a conversation as agreed
    """The conversation cannot go on."""

    def __init__(self, close_code: int, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.close_code, self.code = close_code, code


class Conversation:
    """What is said over one socket.

    Args:
        socket: accepted already.
        films: of the server.
        tokens: of the server.
    """

    def __init__(self, socket: WebSocket, films: Films, tokens: Tokens) -> None:
        self._socket, self._films, self._tokens = socket, films, tokens
        self._limits, self._metrics = films.limits, films.metrics
        self._allowance = Allowance(self._limits.messages_per_second)
        self._mistakes = 0

    async def run(self) -> None:
        """Hold the conversation until one side ends it."""
        try:
            access, hello = await self._greet()
            film = await self._find(access, hello)
            with about(session=film.id):
                await self._wait_in_line(film)
                await self._watch(film, access, hello)
        except _Refused as refused:
            self._metrics.error(refused.code)
            error = Error(code=refused.code, message=str(refused))
            with suppress(RuntimeError, WebSocketDisconnect, TimeoutError):
                async with asyncio.timeout(_FAREWELL_S):
                    await self._socket.send_text(error.model_dump_json())
                    await self._socket.close(refused.close_code)
        except (WebSocketDisconnect, RuntimeError):
            pass  # the other side has gone

    async def _greet(self) -> tuple[Access, Hello]:
        """Read the first message, which has to show a token."""
        try:
            async with asyncio.timeout(self._limits.hello_s):
                text = await self._receive()
        except TimeoutError:
            raise _Refused(
                UNAUTHORIZED, "unauthorized", "hello: none came in time, wanted a token"
            ) from None
        try:
            hello = read_message(text)
        except MalformedError as error:
            raise _Refused(UNAUTHORIZED, "malformed", str(error)) from None
        if not isinstance(hello, Hello):
            raise _Refused(UNAUTHORIZED, "unauthorized", f"{hello.type}: wanted a hello first")
        access = self._tokens.access_of(hello.token)
        if access is None:
            raise _Refused(
                UNAUTHORIZED,
                "unauthorized",
                "token: not one of this server, or it has ended; open the address that the server "
                "printed when it started",
            )
        if hello.session is not None and not access.is_for(hello.session):
            raise _Refused(FORBIDDEN, "forbidden", "token: it is for another film")
        self._account = self._films.quotas.account(access.name)
        return access, hello

    async def _find(self, access: Access, hello: Hello) -> LiveFilm:
        """Return the film that is meant, once the model is there."""
        if self._films.viewers >= self._limits.viewers:
            raise _Refused(TRY_LATER, "full", f"viewers: there are {self._limits.viewers} already")
        wanted = hello.session or access.film
        finding = asyncio.ensure_future(self._films.find_or_open(wanted, access.name))
        try:
            while not finding.done():
                if not self._films.model.tried:
                    await self._socket.send_text(self._films.model.progress().model_dump_json())
                await asyncio.wait({finding}, timeout=_LOADING_S)
            return finding.result()
        except Exception as error:
            raise _refused(error) from None
        finally:
            finding.cancel()

    async def _wait_in_line(self, film: LiveFilm) -> None:
        """Return when the film plays; tell its place in the line until then."""
        line, told, told_s = self._films.line, Queue(position=0, length=0), 0.0
        while film.asleep:
            admitting = asyncio.ensure_future(self._films.admit(film))
            try:
                while not admitting.done():
                    await asyncio.wait({admitting}, timeout=_LOADING_S)
                    now_s = time.monotonic()
                    place = Queue(position=line.position(film.id), length=len(line))
                    if place.position and (place != told or now_s - told_s > _QUEUE_S):
                        await self._socket.send_text(place.model_dump_json())
                        told, told_s = place, now_s
                if (error := admitting.exception()) is not None:
                    raise _refused(error)
            finally:
                admitting.cancel()

    async def _watch(self, film: LiveFilm, access: Access, hello: Hello) -> None:
        """Show the film and take asks, until one side ends it."""
        viewer = Viewer(self._limits, self._metrics, video=hello.video)
        viewer.tell(self._welcome(film, access))
        film.join(viewer, hello.after)
        film.tell_outcomes(viewer)
        _log.info("viewer joined", extra={"role": access.role, "viewers": len(film.viewers)})
        tasks = {
            asyncio.create_task(self._send(viewer)),
            asyncio.create_task(self._read(film, viewer, access)),
            asyncio.create_task(viewer.gone.wait()),
            asyncio.create_task(_until_over(access)),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if viewer.gone.is_set():
                raise _Refused(TRY_LATER, "too_fast", "this viewer does not read what it is sent")
            for task in done:
                task.result()
        finally:
            film.leave(viewer)
            how = "given up" if viewer.gone.is_set() else "left"
            _log.info("viewer %s", how, extra={"viewers": len(film.viewers)})
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _welcome(self, film: LiveFilm, access: Access) -> Welcome:
        height, width = film.session.size
        link = self._tokens.mint("viewer", film.id, expires_at=access.expires_at)
        return Welcome(
            role=access.role,
            asks=_asks(access),
            session=film.id,
            viewer_token=link if access.directs else "",
            model=model_name(self._films.settings.model),
            width=width,
            height=height,
            frame_rate_hz=film.session.frame_rate_hz,
            codec=film.encoder.head.codec,
            suggestions=suggestions(self._films.settings.model),
            begun=film.begun,
            frame=film.frames,
            images=min(self._limits.images, film.session.context_frames),
        )

    async def _send(self, viewer: Viewer) -> None:
        """Send what waits for the viewer."""
        while (item := await viewer.next()) is not None:
            if isinstance(item, str):
                await self._socket.send_text(item)
            else:
                await self._socket.send_bytes(item)
        if not viewer.gone.is_set():
            await self._socket.close(1000)

    async def _read(self, film: LiveFilm, viewer: Viewer, access: Access) -> None:
        """Answer messages, one after the other."""
        while True:
            text = await self._receive()
            now_s = time.monotonic()
            if not self._allowance.take(now_s):
                rate = self._limits.messages_per_second
                answer: Message = Error(
                    code="too_fast", message=f"wanted at most {rate} messages a second"
                )
            elif not self._account.messages.take(now_s):
                rate = self._limits.token_messages_per_second
                answer = Error(
                    code="too_fast",
                    message=f"wanted at most {rate} messages a second from all with this token",
                )
            else:
                answer = await self._answer(film, access, text)
            viewer.tell(answer)
            if isinstance(answer, Error):
                self._metrics.error(answer.code)
                with about(ask=answer.id):
                    _log.info("not done: %s", answer.message, extra={"code": answer.code})
            self._mistakes = self._mistakes + 1 if isinstance(answer, Error) else 0
            if self._mistakes >= self._limits.mistakes:
                raise _Refused(TRY_LATER, "too_fast", "too many messages with mistakes in a row")

    async def _answer(self, film: LiveFilm, access: Access, text: str | bytes) -> Message:
        """Do what one message asks for, and return what to answer."""
        try:
            message: Any = read_message(text)
        except MalformedError as error:
            return Error(id=error.ask, code="malformed", message=str(error))
        if isinstance(message, Hello):
            return Error(code="malformed", message="hello: was said already")
        self._metrics.ask(message.type)
        try:
            if not access.directs:
                raise ForbiddenError("this link watches, and does not direct")
            with about(ask=message.id):
                if isinstance(message, Branch):
                    if access.film is not None:
                        raise ForbiddenError("token: it is for one film, and a branch is another")
                    return await film.do(message, branch=partial(self._branch, film))
                return await film.do(message)
        except Exception as error:
            told = problem_of(error)
            return Error(id=message.id, **told.model_dump())

    async def _branch(self, film: LiveFilm) -> str:
        """Open a film that shares another one's past, and return its id."""
        return (await self._films.branch(film)).id

    async def _receive(self) -> str | bytes:
        """Return the next message, text or binary.

        Raises:
            WebSocketDisconnect: the other side has gone.
        """
        event = await self._socket.receive()
        if event["type"] != "websocket.receive":
            raise WebSocketDisconnect(event.get("code", 1006))
        text = event.get("text")
        data: str | bytes = event["bytes"] if text is None else text
        return data


def _refused(error: BaseException) -> _Refused:
    """Return how a conversation ends that an error makes impossible."""
    told = problem_of(error)
    return _Refused(_CLOSE_CODES.get(told.code, FAILED), told.code, told.message)


def _asks(access: Access) -> tuple[str, ...]:
    """Return the types of asks that a token may send."""
    if not access.directs:
        return ()
    return ASKS if access.film is None else tuple(ask for ask in ASKS if ask != "branch")


async def _until_over(access: Access) -> None:
    """Wait until a token ends.

    Raises:
        _Refused: it has ended.
    """
    while (left_s := access.left_s()) is None or left_s > 0:
        await asyncio.sleep(min(_LONGEST_SLEEP_S, left_s or _LONGEST_SLEEP_S))
    raise _Refused(UNAUTHORIZED, "unauthorized", "token: it has ended")
