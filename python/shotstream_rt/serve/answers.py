"""Problems as answers over HTTP, and as the part of the OpenAPI document that lists them."""

from __future__ import annotations

from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request

from ..printable import printable
from .from_server import ErrorCode
from .problems import Problem, problem, problem_of

STATUS: dict[ErrorCode, int] = {
    "malformed": 422,
    "too_large": 413,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "not_allowed": 405,
    "not_ready": 409,
    "refused": 422,
    "unsupported": 422,
    "too_fast": 429,
    "full": 429,
    "unavailable": 503,
    "failed": 500,
}
"""The HTTP status of every code."""

_CODES: dict[int, ErrorCode] = {
    status: code
    for code, status in reversed(STATUS.items())  # of several, the first
}
_RETRY_AFTER_S = 1


class ErrorAnswer(BaseModel):
    """The body of every answer that is an error."""

    error: Problem


def answer(told: Problem, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return a problem as an answer over HTTP."""
    headers = dict(headers or {})
    if told.retryable:
        headers["Retry-After"] = str(_RETRY_AFTER_S)
    return JSONResponse({"error": told.model_dump()}, STATUS[told.code], headers=headers)


Documented = dict[int | str, dict[str, Any]]
"""The part of a route's documentation that says what it answers."""


def documented(*codes: ErrorCode) -> Documented:
    """Return the part of a route's documentation that says which errors it answers."""
    meanings: Documented = {}
    for code in codes:
        said = meanings.setdefault(STATUS[code], {"model": ErrorAnswer, "description": ""})
        said["description"] = ", ".join(filter(None, (said["description"], code)))
    return meanings


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """Answer an error of this package, or one that nobody expected."""
    return answer(problem_of(error))


async def answer_http_error(request: Request, error: Exception) -> JSONResponse:
    """Answer what the router refuses: an unknown address, a method that it does not have."""
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "malformed")
    said = {"not_found": "there is nothing at this address",
            "not_allowed": f"this address does not do {request.method}"}  # fmt: skip
    headers = dict(error.headers or {})
    if code == "not_allowed":
        # The router names the methods of one route, and an address may have several.
        headers["Allow"] = ", ".join(_methods_at(request) or ["GET"])
    return answer(problem(code, said.get(code, error.detail)), headers)


async def answer_malformed(request: Request, error: Exception) -> JSONResponse:
    """Answer a request that is not of the form that its address wants."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    # Between the names of fields stand those of alternatives, which say nothing to a stranger.
    place = printable(".".join(str(p) for p in first["loc"] if "[" not in str(p)), 80)
    return answer(problem("malformed", f"{place}: {first['msg']}"))


def _methods_at(request: Request) -> list[str]:
    """Return the methods that the address of a request has."""
    return sorted(
        method
        for route in request.app.state.routes
        if route.path_regex.match(request.url.path)
        for method in route.methods
    )
