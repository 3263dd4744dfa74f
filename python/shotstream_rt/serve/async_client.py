"""A client of the server for an event loop: direct a film from a program, and see it.

It speaks the page's protocol and gives decoded frames with the stream's own frame numbers.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
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
    Accepted,
    Applied,
    Branched,
    Ended,
    Error,
    Memory,
    Over,
    RememberedFrame,
    Stats,
    Take,
    Takes,
    Welcome,
)
from .from_viewer import Hello

_FRAMES_KEPT = 64
_OUTCOMES_KEPT = 256


class ServerError(ShotStreamError):
    """The server did not do what was asked for.

    Attributes:
        code: the kind of mistake; see ``Error``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class LiveFrame:
    """A frame of the live stream.

    Attributes:
        pixels: uint8 ``[H, W, 3]`` RGB, as it came through the codec.
        frame: its number in the stream, from 0; numbers are missing where this client was slow.
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


class AsyncClient:
    """One viewer of one film, in an event loop.

    ``async with await AsyncClient.join(url) as client: ...``. Frames that are not read are dropped,
    the oldest first; nothing waits for this client.

    Args:
        socket: connected, and greeted with ``welcome``.
        address: of the server.
        token: that was shown.
        welcome: the server's greeting.
    """

    def __init__(
        self, socket: ClientConnection, address: str, token: str, welcome: Welcome
    ) -> None:
        self.welcome = welcome
        self.takes: dict[tuple[int, int], Take] = {}
        self.memory: tuple[RememberedFrame, ...] = ()
        self.stats: Stats | None = None
        self._socket, self._address, self._token = socket, address, token
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._outcomes: OrderedDict[str, asyncio.Future[Any]] = OrderedDict()
        self._frames: asyncio.Queue[LiveFrame | None] = asyncio.Queue()
        self._ended: str | None = None
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def join(
        cls, url: str, *, token: str | None = None, session: str | None = None, video: bool = True
    ) -> AsyncClient:
        """Connect to a film.

        Waits while the server loads its model.

        Args:
            url: address of the server, as ``serve`` prints it; token and session in its fragment
                are taken.
            token: instead of the fragment's.
            session: film to join, instead of the fragment's; default: the one opened last.
            video: whether frames are wanted, and not the messages alone.

        Raises:
            ConfigError: the address cannot be used, or carries no token and none is given.
            ServerError: the server refused; ``code`` says why.
        """
        parts = urlsplit(url)
        fragment = parse_qs(parts.fragment)
        token = token or next(iter(fragment.get("token", [])), None)
        session = session or next(iter(fragment.get("session", [])), None)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError(
                f"url: got {url.partition('#')[0]!r}, wanted http://HOST:PORT/#token="
            )
        if token is None:
            raise ConfigError("token: none in the address and none given; `serve` prints it")
        scheme = "wss" if parts.scheme == "https" else "ws"
        try:
            socket = await connect(
                f"{scheme}://{parts.netloc}/v1/live", max_size=2**24, compression=None
            )
        except (OSError, websockets.WebSocketException) as error:
            raise ServerError("failed", f"{parts.netloc}: cannot be reached ({error})") from error
        hello = Hello(type="hello", token=token, session=session, video=video)
        try:
            await socket.send(hello.model_dump_json())
            welcome = await _welcome(socket)
        except BaseException:
            await socket.close()
            raise
        return cls(socket, f"{parts.scheme}://{parts.netloc}", token, welcome)

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

    async def outcome(self, answer: Answer) -> Applied | Over:
        """Wait until it is known what becomes of a cut, prompt, retake or undo.

        Raises:
            SessionClosedError: the connection ended before.
        """
        outcome: Applied | Over = await self._outcomes[answer.id]
        return outcome

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

    async def close(self) -> None:
        """Leave the film; it goes on without this viewer."""
        await self._socket.close()
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
        id = secrets.token_hex(8)
        loop = asyncio.get_running_loop()
        answered = self._answers[id] = loop.create_future()
        if kind in ("cut", "prompt", "retake", "undo"):
            self._outcomes[id] = loop.create_future()
            while len(self._outcomes) > _OUTCOMES_KEPT:
                self._outcomes.popitem(last=False)
        given = {name: value for name, value in fields.items() if value is not None}
        try:
            await self._socket.send(json.dumps({"type": kind, "id": id, **given}))
            return await answered
        except websockets.ConnectionClosed as error:
            raise SessionClosedError(f"the connection ended ({error})") from error
        finally:
            self._answers.pop(id, None)

    async def _get(self, name: str) -> bytes:
        headers = {"Authorization": f"Bearer {self._token}"}
        async with httpx.AsyncClient(headers=headers, timeout=60) as http:
            response = await http.get(f"{self._address}/v1/sessions/{self.session}/{name}")
        if response.status_code != 200:
            raise ServerError("failed", f"{name}: the server answered {response.status_code}")
        return response.content

    async def _listen(self) -> None:
        """Read what the server sends, until the end."""
        decoder: FragmentDecoder | None = None
        reason = ""
        try:
            async for data in self._socket:
                if isinstance(data, str):
                    self._hear(FROM_SERVER.validate_json(data))
                elif decoder is None:
                    decoder = FragmentDecoder(data, self.welcome.frame_rate_hz)
                else:
                    for number, pixels in decoder.decode(data):
                        self._offer(LiveFrame(pixels, number))
        except websockets.ConnectionClosedError as error:
            reason = f"the connection broke ({error})"
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            await self._socket.close()
        self._ended = reason or self._ended
        self._frames.put_nowait(None)
        for future in (*self._answers.values(), *self._outcomes.values()):
            if not future.done():
                future.set_exception(SessionClosedError(self._ended or "the connection ended"))
                future.exception()  # whoever waits gets it; nobody has to

    def _offer(self, frame: LiveFrame) -> None:
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
            case Ended(message=text):
                self._ended = f"the film has ended: {text}"


async def _welcome(socket: ClientConnection) -> Welcome:
    """Wait for the server's greeting.

    Raises:
        ServerError: it refuses.
    """
    try:
        while True:
            message = FROM_SERVER.validate_json(await socket.recv())
            if isinstance(message, Welcome):
                return message
            if isinstance(message, Error):
                raise ServerError(message.code, message.message)
    except websockets.ConnectionClosed as error:
        raise ServerError("failed", f"the server ended the connection ({error})") from error


def _decide(future: asyncio.Future[Any] | None, result: Any) -> None:
    if future is not None and not future.done():
        future.set_result(result)
