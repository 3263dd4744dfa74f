"""What every request passes first: whose page asks, with which token, and how much it sends."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .answers import answer
from .problems import problem, problem_of
from .tokens import Tokens, origin_allowed

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; media-src blob:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type",
    "Access-Control-Max-Age": "600",
}


class Gate:
    """Lets requests through to the routes; sockets show their token later and pass.

    Args:
        app: the routes.
        tokens: of the server.
        origins: of pages that may ask besides the server's own.
        public: addresses that want no token.
        body_bytes: longest body of a request.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: Tokens,
        origins: tuple[str, ...],
        public: frozenset[str],
        body_bytes: int,
    ) -> None:
        self._app, self._tokens, self._origins = app, tokens, origins
        self._public, self._body_bytes = public, body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that may not pass; pass on all others.

        Args:
            scope: of the request, as ASGI has it.
            receive: gives its messages.
            send: takes those of the answer.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        foreign = origin if origin in self._origins else None
        begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                sent = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    sent.setdefault(name, value)
                if foreign is not None:
                    sent["Access-Control-Allow-Origin"] = foreign
                    sent["Vary"] = "Origin"
            await send(message)

        refused = self._refused(scope, headers)
        if refused is not None:
            await refused(scope, receive, send_with_headers)
            return
        try:
            await self._app(scope, self._bounded(receive), send_with_headers)
        except Exception as error:
            if begun:
                raise
            await answer(problem_of(error))(scope, receive, send_with_headers)

    def _bounded(self, receive: Receive) -> Receive:
        """Return a way to receive a body that ends with a refusal where it gets too long."""
        size = 0

        async def receive_bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._body_bytes:
                raise HTTPException(413, self._too_large())
            return message

        return receive_bounded

    def _refused(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the answer to a request that may not pass; note the token of one that may."""
        if not origin_allowed(headers.get("origin"), headers.get("host"), self._origins):
            return answer(problem("forbidden", "origin: not that of this server"))
        if scope["method"] == "OPTIONS" and headers.get("origin") in self._origins:
            return Response(status_code=204, headers=_PREFLIGHT)
        length = headers.get("content-length", "0")
        if len(length) > 12 or (length.isdecimal() and int(length) > self._body_bytes):
            return answer(problem("too_large", self._too_large()), {"Connection": "close"})
        access = self._tokens.access_of_header(headers.get("authorization"))
        if access is None and scope["path"] not in self._public:
            # Players ask for a password when they are told to; the page has a bearer token.
            scheme = "Basic" if scope["path"].endswith("live.mp4") else "Bearer"
            told = problem(
                "unauthorized", "token: none, or not one of this server, or it has ended"
            )
            return answer(told, {"WWW-Authenticate": scheme})
        scope.setdefault("state", {})["access"] = access
        return None

    def _too_large(self) -> str:
        return f"body: wanted at most {self._body_bytes} bytes"
