"""A client of the server for an event loop: direct a film from a program, and see it.

It speaks the page's protocol and gives decoded frames with the stream's own frame numbers. A lost
connection is tried anew: the film goes on where it was, and asks that were not answered are sent
again, which the server does once for every id.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
import websockets
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect

from ..errors import ConfigError, FrameTimeoutError, SessionClosedError, ShotStreamError
from ..session import Reread
from .fragments import FragmentDecoder
from .from_server import (
    FROM_SERVER,
    RETRYABLE,
    Accepted,
    Applied,
    Branched,
    Ended,
    Error,
    ErrorCode,
    Loading,
    Memory,
    Over,
    Queue,
    RememberedFrame,
    Stats,
    Take,
    Takes,
    Welcome,
)
from .from_viewer import Hello

Wait = Loading | Queue
"""Why a viewer is not in the film yet: the model is being loaded, or the film waits in line."""

_FRAMES_KEPT = 64
_OUTCOMES_KEPT = 256
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
"""Between attempts to connect anew."""


class ServerError(ShotStreamError):
    """The server did not do what was asked for.

    Attributes:
        code: the kind of mistake; see ``Error``.
        retryable: whether the same, asked again a little later, may be done.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = code in RETRYABLE


@dataclass(frozen=True, slots=True)
class LiveFrame:
    """A frame of the live stream.

    Attributes:
        pixels: uint8 ``[H, W, 3]`` RGB, as it came through the codec.
        frame: its number in the stream, from 0; numbers are missing where this client was slow or
            away. They grow, except after a crash of the server, which may go back by a chunk.
    """

    pixels: NDArray[np.uint8]
    frame: int


@dataclass(frozen=True, slots=True)
class Answer:
    """An ask that was accepted.

    Attributes:
        id: of the ask, for ``outcome`` and ``cancel``.
        frame: how many frames the live stream had when it was accepted.
        notes: words of the text that the model does not know, text that was cut off.
    """

    id: str
    frame: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Connection:
    """A socket, what was said over it and how that was answered."""

    socket: ClientConnection
    address: str
    hello: Hello
    welcome: Welcome


class AsyncClient:
    """One viewer of one film, in an event loop.

    ``async with await AsyncClient.join(url) as client: ...``. Frames that are not read are dropped,
    the oldest first; nothing waits for this client.

    Args:
        connection: greeted with ``welcome``.
        reconnect_s: see ``join``.
        on_wait: see ``join``.

    Attributes:
        welcome: the last greeting: the film's size, frame rate and codec, and what may be asked.
        takes: by the numbers of shot and take.
        memory: what the next cut will see.
        stats: how the film is doing, from the last second; None before they have come.
        waits_for: what this waits for where a lost connection is tried anew; None while it is in
            the film.
        reconnects: how often a lost connection came back.
    """

    def __init__(
        self,
        connection: _Connection,
        reconnect_s: float,
        on_wait: Callable[[Wait], None] | None = None,
    ) -> None:
        self.welcome = connection.welcome
        self.takes: dict[tuple[int, int], Take] = {}
        self.memory: tuple[RememberedFrame, ...] = ()
        self.stats: Stats | None = None
        self.waits_for: Wait | None = None
        self.reconnects = 0
        self._connection, self._reconnect_s = connection, reconnect_s
        self._on_wait = on_wait
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._unanswered: dict[str, str] = {}  # messages by the ids of their asks
        self._outcomes: OrderedDict[str, asyncio.Future[Any]] = OrderedDict()
        self._frames: asyncio.Queue[LiveFrame | None] = asyncio.Queue()
        self._last = -1  # number of the last frame that came
        self._ended: str | None = None
        self._closing = asyncio.Event()
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def join(
        cls,
        url: str,
        *,
        token: str | None = None,
        session: str | None = None,
        video: bool = True,
        reconnect_s: float = 30.0,
        on_wait: Callable[[Wait], None] | None = None,
    ) -> AsyncClient:
        """Connect to a film.

        Waits while the server loads its model, and while the film waits in line because others
        play as many films as can; ``asyncio.timeout`` says for how long at most.

        Args:
            url: address of the server, as ``serve`` prints it; token and session in its fragment
                are taken.
            token: instead of the fragment's.
            session: film to join, instead of the fragment's; default: the one opened last.
            video: whether frames are wanted, and not the messages alone.
            reconnect_s: seconds for which a lost connection is tried anew; 0: it is not. The time
                that the film waits in line does not count.
            on_wait: called on the event loop's thread with each ``Loading`` or ``Queue`` that the
                server sends to who waits, now and after a lost connection: a place in the line when
                it changes and every 2 seconds, the model's loading four times a second. What it
                raises ends this, or the connection that is tried anew.

        Raises:
            ConfigError: the address cannot be used, or carries no token and none is given.
            ServerError: the server refused; ``code`` says why.
        """
        address, token, of_address = address_of(url, token=token)
        session = session or of_address
        hello = Hello(type="hello", token=token, session=session, video=video)
        connection = await _connected(address, hello, on_wait)
        return cls(connection, reconnect_s, on_wait)

    @property
    def session(self) -> str:
        """Id of the film."""
        return self.welcome.session

    # Asks.

    async def cut(self, text: str, *, now: bool = True, images: Sequence[bytes] = ()) -> Answer:
        """Begin a shot; see ``Cut``.

        Args:
            text: its caption.
            now: interrupt the running shot.
            images: pictures that it sees as context, the contents of JPEG, PNG or WebP files; at
                most ``welcome.images``.
        """
        encoded = [base64.b64encode(image).decode("ascii") for image in images]
        return await self._ask("cut", text=text, now=now, images=encoded)

    async def prompt(self, text: str, *, reread: Reread = "none") -> Answer:
        """Change what the running shot shows, without a cut; see ``Prompt``.

        Args:
            text: its new caption.
            reread: how many of its newest chunks are computed anew: ``none``, a number, ``shot``.
        """
        return await self._ask("prompt", text=text, reread=reread)

    async def retake(self) -> Answer:
        """Make the running, or the last, shot once more with other noise."""
        return await self._ask("retake")

    async def undo(
        self, *, chunks: int | None = None, index: int | None = None, shot: int | None = None
    ) -> Answer:
        """Go back; exactly one of the arguments, see ``Undo``.

        Args:
            chunks: how many chunks of the running shot.
            index: number in the film of the frame that comes next.
            shot: number of a shot, which begins once more.
        """
        return await self._ask("undo", chunks=chunks, index=index, shot=shot)

    async def branch(self) -> str:
        """Open a second film that shares this one's past, and return its id."""
        answer = await self._reply("branch")
        return str(answer.session)

    async def pin(self, index: int) -> Answer:
        """Keep a remembered frame for every later cut."""
        return await self._ask("pin", index=index)

    async def unpin(self, index: int) -> Answer:
        """Let a pinned frame be forgotten in its turn."""
        return await self._ask("unpin", index=index)

    async def forget(self, shot: int) -> Answer:
        """Remember nothing of a shot from the next cut on."""
        return await self._ask("forget", shot=shot)

    async def cancel(self, ask: str) -> Answer:
        """Take back an ask, named by its id, that has not begun."""
        return await self._ask("cancel", ask=ask)

    async def check(self, text: str) -> tuple[str, ...]:
        """Return the notes on a text without doing anything with it."""
        return (await self._ask("check", text=text)).notes

    async def pause(self) -> Answer:
        """Begin no further chunk until ``resume``."""
        return await self._ask("pause")

    async def resume(self) -> Answer:
        """Go on after ``pause``."""
        return await self._ask("resume")

    async def outcome(self, answer: Answer, timeout_s: float | None = None) -> Applied | Over:
        """Wait until it is known what becomes of a cut, prompt, retake or undo.

        Args:
            answer: to the ask.
            timeout_s: longest wait in seconds; default: no limit. After a crash of the server
                nobody may be left who knows.

        Raises:
            FrameTimeoutError: it is not known in time.
            SessionClosedError: the connection ended before.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(self._outcomes[answer.id])
        except TimeoutError:
            raise FrameTimeoutError(f"what became of it is not known in {timeout_s} s") from None

    # The picture.

    async def frames(self, timeout_s: float | None = None) -> AsyncIterator[LiveFrame]:
        """Yield frames as they come, until the film ends.

        Args:
            timeout_s: longest wait for a frame in seconds; default: no limit.

        Raises:
            FrameTimeoutError: none came in time.
            SessionClosedError: the connection broke.
        """
        while True:
            try:
                async with asyncio.timeout(timeout_s):
                    frame = await self._frames.get()
            except TimeoutError:
                raise FrameTimeoutError(f"no frame came in {timeout_s} s") from None
            if frame is None:
                self._frames.put_nowait(None)
                if self._ended:
                    raise SessionClosedError(self._ended)
                return
            yield frame

    async def download(self) -> bytes:
        """Return the film as it stands, an MP4 file.

        Raises:
            ServerError: the server refused.
        """
        return await self._get("film.mp4")

    async def directions(self) -> dict[str, Any]:
        """Return the film's directions, which make the same film again.

        Raises:
            ServerError: the server refused.
        """
        directions: dict[str, Any] = json.loads(await self._get("film.json"))
        return directions

    # The end.

    def lose(self) -> None:
        """Break the connection as a network does, to see how the film goes on behind that."""
        self._connection.socket.transport.abort()

    async def close(self) -> None:
        """Leave the film; it goes on without this viewer."""
        self._closing.set()
        await self._connection.socket.close()
        await self._listening

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # Inside.

    async def _ask(self, kind: str, **fields: Any) -> Answer:
        answer = await self._reply(kind, **fields)
        return Answer(answer.id, answer.frame, answer.notes)

    async def _reply(self, kind: str, **fields: Any) -> Any:
        """Send an ask and return the answer to it."""
        if self._listening.done():
            raise SessionClosedError(self._ended or "the connection ended")
        id = secrets.token_hex(8)
        loop = asyncio.get_running_loop()
        answered = self._answers[id] = loop.create_future()
        if kind in ("cut", "prompt", "retake", "undo"):
            self._outcomes[id] = loop.create_future()
            while len(self._outcomes) > _OUTCOMES_KEPT:
                self._outcomes.popitem(last=False)
        given = {name: value for name, value in fields.items() if value is not None}
        text = self._unanswered[id] = json.dumps({"type": kind, "id": id, **given})
        try:
            # One that is lost on its way is sent again over the next connection.
            with suppress(websockets.ConnectionClosed):
                await self._connection.socket.send(text)
            return await answered
        finally:
            self._answers.pop(id, None)
            self._unanswered.pop(id, None)

    async def _get(self, name: str) -> bytes:
        address, token = self._connection.address, self._connection.hello.token
        headers = {"Authorization": f"Bearer {token}"}
        try:
            async with httpx.AsyncClient(headers=headers, timeout=60) as http:
                response = await http.get(f"{address}/v1/sessions/{self.session}/{name}")
        except httpx.TransportError as error:
            raise ServerError("unavailable", f"{name}: cannot be fetched ({error})") from error
        if response.status_code != 200:
            raise error_of(response)
        return response.content

    async def _listen(self) -> None:
        """Read what the server sends, over one connection after the other, until the end."""
        try:
            while True:
                lost = await self._follow()
                if lost is None or not await self._come_back(lost):
                    break
        except Exception as error:
            self._ended = f"{type(error).__name__}: {error}"
            await self._connection.socket.close()
        self._frames.put_nowait(None)
        for future in (*self._answers.values(), *self._outcomes.values()):
            if not future.done():
                future.set_exception(SessionClosedError(self._ended or "the connection ended"))
                future.exception()  # whoever waits gets it; nobody has to

    async def _follow(self) -> str | None:
        """Read what one connection brings; return why it was lost, None if it is over for good."""
        decoder: FragmentDecoder | None = None
        ended: Ended | None = None
        lost = "the connection ended"
        try:
            async for data in self._connection.socket:
                if not isinstance(data, str):
                    if decoder is None:
                        decoder = FragmentDecoder(data, self.welcome.frame_rate_hz)
                    else:
                        for number, pixels in decoder.decode(data):
                            self._offer(LiveFrame(pixels, number))
                    continue
                message = FROM_SERVER.validate_json(data)
                if isinstance(message, Ended):
                    ended = message
                elif isinstance(message, Error) and message.id is None:
                    lost = message.message  # said before a connection is closed
                self._hear(message)
        except websockets.ConnectionClosedError as error:
            lost = f"the connection broke ({error})"
        if self._closing.is_set():
            return None
        if ended is not None:
            lost = f"the film has ended: {ended.message}"
            if ended.reason == "closed":
                self._ended = lost
                return None
        return lost

    async def _come_back(self, lost: str) -> bool:
        """Connect anew to the same film; return whether that was possible in time."""
        loop = asyncio.get_running_loop()
        end, pause = loop.time() + self._reconnect_s, _FIRST_PAUSE_S
        self._ended = lost
        hello = self._connection.hello.model_copy(
            update={"session": self.session, "after": None if self._last < 0 else self._last}
        )
        while loop.time() < end:
            try:
                connection = await self._unless_closing(
                    _connected(self._connection.address, hello, self._hear_wait)
                )
            except ServerError as error:
                if not error.retryable:
                    self._ended = f"{lost}; then: {error}"
                    return False
                if self.waits_for is not None:  # the server was there until now
                    end, pause = loop.time() + self._reconnect_s, _FIRST_PAUSE_S
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), pause)
                if self._closing.is_set():
                    self._ended = None
                    return False
                pause = min(_LONGEST_PAUSE_S, 2 * pause)
                continue
            finally:
                self.waits_for = None
            self._ended = None
            if connection is None:
                return False
            self._connection, self.welcome = connection, connection.welcome
            self.reconnects += 1
            # After a crash the film goes on before what was seen of it last.
            self._last = min(self._last, self.welcome.frame - 1)
            for text in tuple(self._unanswered.values()):
                with suppress(websockets.ConnectionClosed):
                    await self._connection.socket.send(text)
            return True
        return False

    async def _unless_closing(
        self, connecting: Coroutine[Any, Any, _Connection]
    ) -> _Connection | None:
        """Return the new connection; None if this is closed meanwhile, also in the line."""
        task = asyncio.create_task(connecting)
        closing = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait({task, closing}, return_when=asyncio.FIRST_COMPLETED)
            if not self._closing.is_set():
                return task.result()
        finally:
            closing.cancel()
            task.cancel()
        with suppress(ServerError, asyncio.CancelledError):
            await (await task).socket.close()  # it was there at the same moment
        return None

    def _hear_wait(self, message: Wait) -> None:
        self.waits_for = message
        if self._on_wait is not None:
            self._on_wait(message)

    def _offer(self, frame: LiveFrame) -> None:
        if frame.frame <= self._last:
            return  # it came before the connection was lost
        self._last = frame.frame
        while self._frames.qsize() >= _FRAMES_KEPT:
            self._frames.get_nowait()
        self._frames.put_nowait(frame)

    def _hear(self, message: Any) -> None:
        match message:
            case Accepted(id=id) | Branched(id=id):
                _decide(self._answers.get(id), message)
            case Applied(id=id) | Over(id=id):
                _decide(self._outcomes.get(id), message)
            case Error(id=id, code=code, message=text):
                if id is None and code == "too_fast":
                    id = next(iter(self._answers), None)  # it was not read; answers keep the order
                future = self._answers.get(id or "")
                if future is not None and not future.done():
                    future.set_exception(ServerError(code, text))
            case Take():
                self.takes[message.shot, message.take] = message
            case Takes(takes=takes):
                self.takes |= {(take.shot, take.take): take for take in takes}
            case Memory():
                self.memory = message.frames
            case Stats():
                self.stats = message


def address_of(url: str, *, token: str | None = None) -> tuple[str, str, str | None]:
    """Take apart the address of a page, as ``serve`` prints it.

    Args:
        url: address, with token and session in its fragment or without.
        token: instead of the fragment's.

    Returns:
        Address of the server, token, and the film's id if there is one.

    Raises:
        ConfigError: the address cannot be used, or carries no token and none is given.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:  # brackets without an address in them
        usable = False
    if not usable:
        raise ConfigError(f"url: got {url.partition('#')[0]!r}, wanted http://HOST:PORT/#token=")
    fragment = parse_qs(parts.fragment)
    token = token or next(iter(fragment.get("token", [])), None)
    if token is None:
        raise ConfigError("token: none in the address and none given; `serve` prints it")
    return f"{parts.scheme}://{parts.netloc}", token, next(iter(fragment.get("session", [])), None)


def error_of(response: httpx.Response) -> ServerError:
    """Return the error that an answer over HTTP tells."""
    try:
        told = response.json()["error"]
        return ServerError(told["code"], told["message"])
    except (ValueError, KeyError, TypeError):  # not from this server, but from one before it
        code: ErrorCode = "unavailable" if response.status_code >= 500 else "refused"
        return ServerError(code, f"the server answered {response.status_code}")


async def _connected(
    address: str, hello: Hello, on_wait: Callable[[Wait], None] | None
) -> _Connection:
    """Connect, say hello and wait for the greeting.

    Args:
        address: of the server, without a path.
        hello: what is said.
        on_wait: called with what the server says meanwhile; see ``AsyncClient.join``.

    Raises:
        ServerError: the server cannot be reached, or refuses.
    """
    scheme, _, place = address.partition("://")
    socket_address = f"{'wss' if scheme == 'https' else 'ws'}://{place}/v1/live"
    try:
        socket = await connect(socket_address, max_size=2**24, compression=None)
    except (OSError, websockets.WebSocketException) as error:
        raise ServerError("unavailable", f"{place}: cannot be reached ({error})") from error
    try:
        await socket.send(hello.model_dump_json())
        while True:
            message = FROM_SERVER.validate_json(await socket.recv())
            if isinstance(message, Welcome):
                return _Connection(socket, address, hello, message)
            if isinstance(message, Error):
                raise ServerError(message.code, message.message)
            if on_wait is not None and isinstance(message, Wait):
                on_wait(message)
    except websockets.ConnectionClosed as error:
        raise ServerError("unavailable", f"the server ended the connection ({error})") from error
    except BaseException:
        await socket.close()
        raise


def _decide(future: asyncio.Future[Any] | None, result: Any) -> None:
    if future is not None and not future.done():
        future.set_result(result)
