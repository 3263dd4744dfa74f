"""Files as answers over HTTP: what a browser saves and a program reads."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi.responses import StreamingResponse

from .answers import Documented

MP4 = "video/mp4"
"""Media type of an MP4 file, and of a stream without end in its format."""

MP4_ANSWER: Documented = {
    200: {"content": {MP4: {"schema": {"type": "string", "format": "binary"}}}}
}
"""The part of a route's documentation that says that it answers with one."""


def attachment(name: str) -> dict[str, str]:
    """Return the headers of an answer that is saved as a file.

    Args:
        name: of the file, without quotation marks.
    """
    return {"Content-Disposition": f'attachment; filename="{name}"'}


def download(
    name: str, size_bytes: int, contents: Iterator[bytes], media_type: str = MP4
) -> StreamingResponse:
    """Return an answer that is saved as a file.

    Args:
        name: of the file, without quotation marks.
        size_bytes: of all its contents.
        contents: read while they are sent.
        media_type: what it is.
    """
    headers = {"Content-Length": str(size_bytes), **attachment(name)}
    return StreamingResponse(contents, media_type=media_type, headers=headers)
