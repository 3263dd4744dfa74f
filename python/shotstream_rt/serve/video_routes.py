"""The addresses of videos: films made as a whole, asked for as from OpenAI's video API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from ..story import Story
from .access import SERVER_DIRECTOR, SERVER_VIEWER
from .answers import documented
from .downloads import MP4_ANSWER, download
from .films import Films
from .message import WHOLE, Caption, Seed
from .problems import NotFoundError, NotReadyError, Problem
from .public_names import model_name
from .videos import Status, Video, VideoOrder, Videos

_MOST_SHOTS = 100
_MOST_SECONDS = 600

VideoId = Annotated[str, Path(alias="id", max_length=64, pattern=r"^video_[0-9a-f]{1,32}$")]

router = APIRouter(prefix="/v1/videos", tags=["videos"])


class _NewVideo(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    model: Annotated[str, Field(max_length=200)] | None = None
    seed: Seed | None = None


class VideoOfPrompt(_NewVideo):
    """A video of one shot.

    Attributes:
        prompt: what it shows.
        seconds: its length, as a number or as a text; default: the trained length of a shot.
        model: the server's, if given at all.
        seed: noise seed; default: the server's.
    """

    prompt: Caption
    seconds: (
        Annotated[int, Field(ge=1, le=_MOST_SECONDS), WHOLE]
        | Annotated[str, Field(pattern=r"^([1-9][0-9]?|[1-5][0-9][0-9]|600)$")]
        | None
    ) = None


class StoryText(BaseModel):
    """A film in words.

    Attributes:
        shots: text of each shot.
        global_caption: what holds for the whole film: characters, place, style.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    shots: Annotated[list[Caption], Field(min_length=1, max_length=_MOST_SHOTS)]
    global_caption: Annotated[str, Field(max_length=10_000)] = ""


class VideoOfStory(_NewVideo):
    """A video of many shots, each of the trained length.

    Attributes:
        story: its shots.
        model: the server's, if given at all.
        seed: noise seed; default: the server's.
    """

    story: StoryText


def _kind(value: Any) -> str:
    return "story" if isinstance(value, dict) and "story" in value else "prompt"


NewVideo = Annotated[
    Annotated[VideoOfPrompt, Tag("prompt")] | Annotated[VideoOfStory, Tag("story")],
    Discriminator(_kind),
]


class VideoAnswer(BaseModel):
    """A video: what it is, and how far.

    Attributes:
        progress: how much is made, in percent.
        created_at: Unix time in seconds; likewise the other two.
        seconds: its length as a text; null until it is being made.
        size: width and height in pixels, such as ``160x96``; null until it is being made.
        error: why it failed.
    """

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Status
    progress: int
    created_at: int
    completed_at: int | None
    expires_at: int | None
    seconds: str | None
    size: str | None
    error: Problem | None


class VideoList(BaseModel):
    """The videos, the newest first."""

    object: Literal["list"] = "list"
    data: list[VideoAnswer]
    first_id: str | None
    last_id: str | None
    has_more: Literal[False] = False


class DeletedVideo(BaseModel):
    """What was deleted."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


@router.get("", dependencies=SERVER_VIEWER, responses=documented("unauthorized", "forbidden"))
async def list_videos(request: Request) -> VideoList:
    """Return the videos."""
    told = [_described(request, video) for video in _videos(request).all()]
    first, last = (told[0].id, told[-1].id) if told else (None, None)
    return VideoList(data=told, first_id=first, last_id=last)


@router.post(
    "",
    status_code=201,
    dependencies=SERVER_DIRECTOR,
    responses=documented(
        "malformed", "refused", "too_large", "unauthorized", "forbidden", "not_found", "full",
        "unavailable",
    ),
)  # fmt: skip
async def order_video(request: Request, new: NewVideo) -> VideoAnswer:
    """Order a video; it is made when those ordered before it are."""
    have = _model(request)
    if new.model not in (None, have):
        raise NotFoundError(f"model: got {new.model!r}, this server has {have!r}")
    if isinstance(new, VideoOfStory):
        story = Story(shots=new.story.shots, global_caption=new.story.global_caption)
        order = VideoOrder(content=story, seed=new.seed)
    else:
        seconds = None if new.seconds is None else int(new.seconds)
        order = VideoOrder(content=new.prompt, seconds=seconds, seed=new.seed)
    return _described(request, _videos(request).order(order))


@router.get(
    "/{id}",
    dependencies=SERVER_VIEWER,
    responses=documented("malformed", "unauthorized", "forbidden", "not_found"),
)
async def video(request: Request, id: VideoId) -> VideoAnswer:
    """Return how far a video is."""
    return _described(request, _videos(request).find(id))


@router.delete(
    "/{id}",
    dependencies=SERVER_DIRECTOR,
    responses=documented("malformed", "unauthorized", "forbidden", "not_found"),
)
async def delete_video(request: Request, id: VideoId) -> DeletedVideo:
    """Delete a video, also one that is being made."""
    await _videos(request).delete(id)
    return DeletedVideo(id=id)


@router.get(
    "/{id}/content",
    response_class=Response,
    dependencies=SERVER_VIEWER,
    responses=MP4_ANSWER
    | documented("malformed", "unauthorized", "forbidden", "not_found", "not_ready"),
)
async def content(request: Request, id: VideoId) -> Response:
    """Return a video that is whole, an MP4 file."""
    found = _videos(request).find(id)
    if found.status == "failed":
        raise NotFoundError("video: it failed, so there is no file")
    file = found.file()
    if file is None:
        raise NotReadyError(f"video: {found.progress} % of it is made")
    size_bytes, contents = file
    return download(f"{id}.mp4", size_bytes, contents)


def _videos(request: Request) -> Videos:
    videos: Videos = request.app.state.videos
    return videos


def _model(request: Request) -> str:
    films: Films = request.app.state.films
    return model_name(films.settings.model)


def _described(request: Request, video: Video) -> VideoAnswer:
    height, width = video.size or (0, 0)
    return VideoAnswer(
        id=video.id,
        model=_model(request),
        status=video.status,
        progress=video.progress,
        created_at=video.created_at,
        completed_at=video.completed_at,
        expires_at=video.expires_at,
        seconds=None if video.seconds is None else f"{video.seconds:g}",
        size=f"{width}x{height}" if video.size else None,
        error=video.problem,
    )
