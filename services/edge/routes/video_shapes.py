"""Videos as clients send and see them, and what their endpoints say of themselves."""

from typing import Annotated, Literal, NotRequired, TypedDict

from msgspec import Meta

from chassis.errors import Code
from services.edge.bodies.video_request import VideoBody
from services.edge.openapi.description import (
    ID_OR_NOTHING,
    IDEMPOTENCY_KEY,
    MAX_COST,
    PAID,
    REPLAYED,
    Description,
    Media,
    Parameter,
)
from services.edge.routes.files import IF_RANGE, PARTS, RANGE
from services.edge.routes.task_shapes import PREFER

COUNT = Annotated[int, Meta(ge=0)]


class VideoError(TypedDict):
    """Why it failed."""

    code: str
    message: str


class VideoUsage(TypedDict):
    """What it cost, in USD."""

    seconds: float
    cost: float


class Video(TypedDict):
    """OpenAI's shape. `progress` is in percent; times are seconds since the epoch. Its id is a task's, too."""

    id: str
    object: Literal["video"]
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: COUNT
    created_at: int
    completed_at: int | None
    expires_at: int | None
    prompt: str
    seconds: str
    size: str
    remixed_from_video_id: str | None
    error: VideoError | None
    usage: NotRequired[VideoUsage]


class Videos(TypedDict):
    """A page as OpenAI has it; `last_id` is what `after` takes for the next one."""

    object: Literal["list"]
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedVideo(TypedDict):
    """It is gone: ended if it ran, its file removed."""

    id: str
    object: Literal["video.deleted"]
    deleted: Literal[True]


class VideoForm(VideoBody, frozen=True, kw_only=True):
    """The same as a form; `input_reference` is a file."""


_TAG = "Images and tasks"
_EXAMPLE = {"model": "MODEL", "prompt": "Waves at dusk", "seconds": "4", "size": "720x1280"}
CREATE_VIDEO = Description(
    name="createVideo",
    tag=_TAG,
    summary="A video from a text",
    about="Answers at once; ask for it by its id. JSON, or a form with a picture to begin with as `input_reference`.",
    body=VideoBody,
    example=_EXAMPLE,
    answer=Video,
    parameters=(IDEMPOTENCY_KEY, MAX_COST, PREFER),
    headers=(REPLAYED,),
    refuses=PAID,
)
LIST_VIDEOS = Description(
    name="listVideos",
    tag=_TAG,
    summary="Your videos",
    about="Newest first.",
    answer=Videos,
    parameters=(
        Parameter(name="limit", about="How many, 20 without it.", shape=Annotated[int, Meta(ge=1, le=100)]),
        Parameter(name="after", about="The `last_id` of the page before.", shape=ID_OR_NOTHING),
        Parameter(name="order", about="By when they were ordered.", shape=Literal["asc", "desc"]),
    ),
)
GET_VIDEO = Description(
    name="getVideo", tag=_TAG, summary="A video's state", answer=Video, refuses=frozenset({Code.NOT_FOUND})
)
GET_VIDEO_CONTENT = Description(
    name="getVideoContent",
    tag=_TAG,
    summary="A video's file",
    about="409 `conflict` until it is completed.",
    media=(Media(content_type="video/mp4", shape=bytes),),
    parameters=(Parameter(name="variant", about="Only `video` is made.", shape=Literal["video"]), RANGE, IF_RANGE),
    statuses=(206,),
    others=PARTS,
    refuses=frozenset({Code.NOT_FOUND, Code.CONFLICT}),
)
DELETE_VIDEO = Description(
    name="deleteVideo",
    tag=_TAG,
    summary="Ends a video that is made, and removes its file",
    answer=DeletedVideo,
    refuses=frozenset({Code.NOT_FOUND}),
)
