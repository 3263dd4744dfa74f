"""A client of the server for an event loop: direct a film from a program, and see it.

It speaks the page's protocol and gives decoded frames with the stream's own frame numbers. A lost
connection is tried anew: the film goes on where it was, and asks that were not answered are sent
again, which the server does once for every id.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any

import httpx

from ..errors import FrameTimeoutError, SessionClosedError
from ..session import Reread
from .from_server import Applied, Memory, Over, RememberedFrame, Stats, Take, Takes, Welcome
from .from_viewer import Hello
from .greeting import Greeted, Wait, greet
from .lasting_socket import LastingSocket
from .live_frames import LiveFrame, LiveFrames
from .sent_asks import Answer, SentAsks
from .server_address import address_of
from .server_error import ServerError, error_of

__all__ = ["Answer", "AsyncClient", "LiveFrame", "ServerError", "Wait"]


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
    """

    def __init__(
        self,
        connection: Greeted,
        reconnect_s: float,
        on_wait: Callable[[Wait], None] | None = None,
    ) -> None:
        self.welcome = connection.welcome
        self.takes: dict[tuple[int, int], Take] = {}
        self.memory: tuple[RememberedFrame, ...] = ()
        self.stats: Stats | None = None
        self._asks, self._frames = SentAsks(), LiveFrames()
        self._socket = LastingSocket(
            connection,
            reconnect_s=reconnect_s,
            after=self._frames.after,
            on_wait=on_wait,
        )
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
        connection = await greet(address, hello, on_wait)
        return cls(connection, reconnect_s, on_wait)

    @property
    def session(self) -> str:
        """Id of the film."""
        return self.welcome.session

    @property
    def reconnects(self) -> int:
        """How often a lost connection came back."""
        return self._socket.reconnects

    @property
    def waits_for(self) -> Wait | None:
        """What a connection that was lost waits for; None while this is in the film."""
        return self._socket.waits_for

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
            ConfigError: it is the answer to something else, or of more than 256 such asks ago.
            FrameTimeoutError: it is not known in time.
            SessionClosedError: the connection ended before.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._asks.outcome(answer.id)
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
                    frame = await self._frames.read()
            except TimeoutError:
                raise FrameTimeoutError(f"no frame came in {timeout_s} s") from None
            if frame is None:
                if self._socket.ended:
                    raise SessionClosedError(self._socket.ended)
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
        self._socket.lose()

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
        if self._listening.done():
            raise SessionClosedError(self._socket.ended or "the connection ended")
        ask = self._asks.add(kind, **fields)
        try:
            await self._socket.send(ask.text)
            return await ask.answered
        finally:
            self._asks.drop(ask)

    async def _get(self, name: str) -> bytes:
        headers = {"Authorization": f"Bearer {self._socket.token}"}
        address = f"{self._socket.address}/v1/sessions/{self.session}/{name}"
        try:
            async with httpx.AsyncClient(headers=headers, timeout=60) as http:
                response = await http.get(address)
        except httpx.TransportError as error:
            raise ServerError("unavailable", f"{name}: cannot be fetched ({error})") from error
        if response.status_code != 200:
            raise error_of(response)
        return response.content

    async def _listen(self) -> None:
        """Take what the server says, until the end."""
        try:
            async for said in self._socket.heard():
                if isinstance(said, bytes):
                    self._frames.push(said)
                elif isinstance(said, Welcome):
                    await self._begin(said)
                else:
                    self._hear(said)
        except Exception as error:
            await self._socket.fail(f"{type(error).__name__}: {error}")
        self._frames.end()
        self._asks.end(self._socket.ended or "the connection ended")

    async def _begin(self, welcome: Welcome) -> None:
        """Go on over a new connection: asks that were not answered are sent again."""
        self.welcome = welcome
        self._frames.begin(welcome)
        for ask in self._asks.unanswered:
            await self._socket.send(ask.text)

    def _hear(self, message: Any) -> None:
        match message:
            case Take():
                self.takes[message.shot, message.take] = message
            case Takes(takes=takes):
                self.takes |= {(take.shot, take.take): take for take in takes}
            case Memory():
                self.memory = message.frames
            case Stats():
                self.stats = message
            case _:
                self._asks.hear(message)
