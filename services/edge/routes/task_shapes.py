"""Images, tasks and files as clients send and see them, and what their endpoints say of themselves."""

from typing import Annotated, Literal, NotRequired, TypedDict, cast

import msgspec
from msgspec import Meta

from chassis.errors import Code
from pricing.prices import usd_number
from services.edge.openapi.description import (
    IDEMPOTENCY_KEY,
    MAX_COST,
    PAGE,
    PAID,
    REPLAYED,
    TIME,
    USD,
    Description,
    Media,
    Page,
    Parameter,
)
from tollbridge.tasks.v1 import tasks_pb2
from upstream.openai.image_fields import ImageFields


class ImageBody(ImageFields, frozen=True, kw_only=True):
    """As OpenAI's. Fields that are not here are handed to the provider as they are."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    webhook_url: str | None = None


class WebhookWish(msgspec.Struct, frozen=True, kw_only=True):
    """What every order of a long job may say beside what it orders."""

    webhook_url: str | None = None


class Image(TypedDict):
    """One image: a link, or with `response_format: b64_json` itself."""

    url: NotRequired[str]
    b64_json: NotRequired[str]


class ImageInput(TypedDict):
    """Of which kind it is."""

    text_tokens: int
    image_tokens: int


class ImageUsage(TypedDict):
    """As OpenAI has it: 0 for models that are sold by the piece and report no tokens. `cost` is in USD."""

    input_tokens: int
    input_tokens_details: ImageInput
    output_tokens: int
    total_tokens: int
    cost: float


def image_usage(task: tasks_pb2.Task) -> ImageUsage:
    """The usage of a task's images; `cost` with all its decimals, which a float might not have."""
    used = task.text_tokens + task.image_tokens
    return {
        "input_tokens": used,
        "input_tokens_details": {"text_tokens": task.text_tokens, "image_tokens": task.image_tokens},
        "output_tokens": task.output_tokens,
        "total_tokens": used + task.output_tokens,
        "cost": cast("float", msgspec.Raw(usd_number(task.charge_nano_usd).encode())),
    }


class Images(TypedDict):
    """The images; without any while the task is not done, whose `status` is then said."""

    created: int
    data: list[Image]
    task_id: str
    usage: NotRequired[ImageUsage]
    background: NotRequired[str]
    output_format: NotRequired[str]
    quality: NotRequired[str]
    size: NotRequired[str]
    provider_task_id: NotRequired[str | None]
    status: NotRequired[str]
    model: NotRequired[str]


class CompletedImage(TypedDict):
    """One image of a stream, whole. Of several the last has the usage of all; the others' is 0."""

    type: Literal["image_generation.completed"]
    b64_json: str
    created_at: int
    background: str
    output_format: str
    quality: str
    size: str
    usage: ImageUsage


class TaskFile(TypedDict):
    """A result."""

    url: str
    content_type: str
    bytes: int


class TaskResult(TypedDict):
    """All results."""

    data: list[TaskFile]


class TaskError(TypedDict):
    """Why it failed."""

    code: str
    message: str


class Task(TypedDict):
    """A long job. `progress` is 0 to 1; `cost` is in USD."""

    id: str
    object: Literal["task"]
    kind: str
    model: str
    status: str | None
    progress: float
    created_at: TIME | None
    started_at: TIME | None
    finished_at: TIME | None
    result: TaskResult | None
    error: TaskError | None
    cost: USD


_TAG = "Images and tasks"
PREFER = Parameter(
    name="Prefer",
    about="`respond-async` answers at once with a task, `wait=N` after at most N seconds; 60 without it.",
    is_header=True,
)
CREATE_IMAGE = Description(
    name="createImage",
    tag=_TAG,
    summary="Images from a text",
    about="With `stream` an event `image_generation.completed` for each image, and comments until they come.",
    body=ImageBody,
    example={"model": "MODEL", "prompt": "A lighthouse at dusk"},
    answer=Images,
    media=(Media(content_type="text/event-stream", shape=CompletedImage),),
    parameters=(IDEMPOTENCY_KEY, MAX_COST, PREFER),
    headers=(REPLAYED,),
    refuses=PAID,
)
LIST_TASKS = Description(
    name="listTasks", tag=_TAG, summary="One's tasks, newest first", answer=Page[Task], parameters=PAGE
)
GET_TASK = Description(name="getTask", tag=_TAG, summary="A task", answer=Task, refuses=frozenset({Code.NOT_FOUND}))
CANCEL_TASK = Description(
    name="cancelTask",
    tag=_TAG,
    summary="Cancels a task; one that has ended stays as it is",
    answer=Task,
    refuses=frozenset({Code.NOT_FOUND, Code.CONFLICT}),
)
