"""Images, tasks and files as clients send and see them, and what their endpoints say of themselves."""

from typing import Annotated, Literal, NotRequired, TypedDict

import msgspec
from msgspec import Meta

from chassis.errors import Code
from services.edge.openapi.description import (
    IDEMPOTENCY_KEY,
    MAX_COST,
    PAGE,
    PAID,
    REPLAYED,
    TIME,
    USD,
    Description,
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


def image_usage(task: tasks_pb2.Task, cost: float) -> ImageUsage:
    """The usage of images that cost so much."""
    used = task.text_tokens + task.image_tokens
    return {
        "input_tokens": used,
        "input_tokens_details": {"text_tokens": task.text_tokens, "image_tokens": task.image_tokens},
        "output_tokens": task.output_tokens,
        "total_tokens": used + task.output_tokens,
        "cost": cost,
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
    body=ImageBody,
    example={"model": "MODEL", "prompt": "A lighthouse at dusk"},
    answer=Images,
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
