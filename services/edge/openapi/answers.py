"""Good answers of the paid endpoints, as far as every provider's are alike; more fields may come, and do.

These are the only shapes that stand here by hand: the answers are providers' own, relayed. What edge promises of them
is what is required here.
"""

from typing import Any, Literal, NotRequired, TypedDict

Object = dict[str, Any]


class StreamEvent(TypedDict):
    """One of a stream's events. `data` is JSON: a chunk or Anthropic's event, an error, or in the end `[DONE]`."""

    event: NotRequired[str]
    data: str


class Usage(TypedDict):
    """What was used. `cost` is in USD."""

    prompt_tokens: int
    completion_tokens: NotRequired[int]
    total_tokens: int
    cost: float
    prompt_tokens_details: NotRequired[Object | None]
    completion_tokens_details: NotRequired[Object | None]


class ChatAnswerMessage(TypedDict):
    """What the model says."""

    role: NotRequired[str]
    content: NotRequired[str | None]
    refusal: NotRequired[str | None]
    tool_calls: NotRequired[list[Object] | None]


class ChatChoice(TypedDict):
    """One of `n` answers."""

    index: NotRequired[int]
    message: ChatAnswerMessage
    finish_reason: NotRequired[str | None]
    logprobs: NotRequired[Object | None]


class ChatCompletion(TypedDict):
    """OpenAI's chat completion; `model` is the id that was asked for. A stream has its chunks, then `data: [DONE]`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class MessagesUsage(TypedDict):
    """What was used. `cost` is in USD."""

    input_tokens: int
    output_tokens: int
    cost: float
    cache_creation_input_tokens: NotRequired[int | None]
    cache_read_input_tokens: NotRequired[int | None]


class Message(TypedDict):
    """Anthropic's message. A stream has its events, `message_start` to `message_stop`."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Object]
    stop_reason: str | None
    stop_sequence: NotRequired[str | None]
    usage: MessagesUsage


class TokenCount(TypedDict):
    """How long a prompt is."""

    input_tokens: int


class ResponsesUsage(TypedDict):
    """What was used. `cost` is in USD."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    cost: float


class ResponseObject(TypedDict):
    """OpenAI's response. A stream has its events, `response.created` to `response.completed`."""

    id: str
    object: Literal["response"]
    created_at: int
    status: str
    model: str
    output: list[Object]
    usage: ResponsesUsage | None


class CompletionChoice(TypedDict):
    """One of `n` answers to one of the prompts."""

    index: NotRequired[int]
    text: str
    finish_reason: NotRequired[str | None]


class Completion(TypedDict):
    """OpenAI's legacy completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class Embedding(TypedDict):
    """One input's vector: numbers, or their bytes in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingList(TypedDict):
    """OpenAI's list, in the order of the inputs."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: Usage


class Moderation(TypedDict):
    """OpenAI's judgement, one for each input."""

    id: str
    model: str
    results: list[Object]


class Transcript(TypedDict):
    """`json`, `verbose_json` and `diarized_json` are this, with more fields; other formats are plain text."""

    text: str
    usage: NotRequired[Object]


class SpeechTask(TypedDict):
    """What comes of a text that is spoken as a task while it is not done."""

    created: int
    data: list[object]
    task_id: str
    provider_task_id: str | None
    status: str
    model: str
