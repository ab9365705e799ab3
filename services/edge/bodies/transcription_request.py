"""The form of a request to transcribe or translate a sound: checked, and understood as far as money needs it.

What is held is what the sound can cost by its length: as its container says it, with some room, or by its size where
that can't be read. Tokens of sound are bounded by the second.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Literal, NotRequired, TypedDict, get_args

import msgspec
from msgspec import Meta

from chassis.errors import Code, TollbridgeError
from pricing.tokens import Units
from services.edge.paid.paid_request import PaidRequest
from services.edge.paid.prompt import cautiously
from upstream.form import Form, FormFile, FormProblem, read_form
from upstream.route import Bounds
from upstream.sounds import Duration, duration_of
from upstream.usage import count_tokens

Format = Literal["json", "text", "srt", "vtt", "verbose_json", "diarized_json"]
FORMATS: tuple[Format, ...] = get_args(Format)
DEFAULT_MODEL = "whisper-1"
MAX_FORM_BYTES = 26 << 20
MOST_TOKENS_PER_S = 50
USUAL_TOKENS_PER_S = 10
_GRANULARITIES = ("word", "segment")


class TranslationForm(TypedDict):
    """As OpenAI's. Fields that are not here are handed to the provider as they are."""

    file: bytes
    model: NotRequired[Annotated[str, Meta(min_length=1, max_length=256)]]
    response_format: NotRequired[Format]
    prompt: NotRequired[str]
    temperature: NotRequired[Annotated[float, Meta(ge=0, le=1)]]


class TranscriptionForm(TranslationForm):
    """The same, and what a translation does not have."""

    language: NotRequired[str]
    stream: NotRequired[bool]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptionRequest(PaidRequest):
    """A checked form. `passed_on` are its fields but for those that are ours to set."""

    file: FormFile
    duration: Duration
    response_format: Format
    passed_on: tuple[tuple[str, str], ...]

    def input_tokens(self, bounds: Bounds) -> int:
        """The most input tokens this can be: those of its texts, and so many for each second held."""
        texts = sum(len(value.encode()) for _, value in self.passed_on)
        sound = self.most_units.milliseconds * MOST_TOKENS_PER_S // 1000
        return texts + sound + bounds.template_tokens

    def prompt_tokens(self, model: str) -> int:
        """What it is taken for where nobody has counted it. Blocks."""
        texts = "\n".join(value for name, value in self.passed_on if name == "prompt")
        return count_tokens(texts, model) + self.sound_tokens

    @property
    def sound_tokens(self) -> int:
        """See PaidRequest."""
        return self.duration.likely_ms * USUAL_TOKENS_PER_S // 1000

    def most_prompt_tokens(self, model: str) -> int:
        """The same as a bound. Blocks."""
        sound = self.most_units.milliseconds * MOST_TOKENS_PER_S // 1000
        return cautiously(self.prompt_tokens(model), model) + sound


def parser(*, streams: bool) -> Callable[[bytes, Iterable[tuple[bytes, bytes]]], TranscriptionRequest]:
    """The parser of one of the two endpoints; translations have no streams."""

    def parse(body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> TranscriptionRequest:
        content_type = next((value for name, value in headers if name == b"content-type"), b"")
        try:
            form = read_form(body, content_type.decode("latin-1"))
        except FormProblem as problem:
            raise TollbridgeError(Code.INVALID_REQUEST, str(problem)) from problem
        return _checked(form, streams=streams)

    return parse


def _checked(form: Form, *, streams: bool) -> TranscriptionRequest:
    fields = dict(form.fields)
    stream = _flag(fields.get("stream", ""))
    if stream and not streams:
        raise _invalid("stream", "translations are not streamed")
    response_format = _format(fields, stream=stream)
    file = _sound(form)
    duration = duration_of(file.data)
    return TranscriptionRequest(
        body=_canonical(form, file),
        fields=fields,
        model=_model(fields),
        stream=stream,
        include_usage=True,
        is_clampable=False,
        most_units=Units(requests=1, milliseconds=duration.held_ms),
        file=file,
        duration=duration,
        response_format=response_format,
        content_type=b"application/json" if response_format.endswith("json") else b"text/plain; charset=utf-8",
        passed_on=_passed_on(form),
    )


def _sound(form: Form) -> FormFile:
    if len(form.files) != 1 or form.files[0].field != "file":
        raise _invalid("file", "You must provide file, and no other file")
    if not form.files[0].data:
        raise _invalid("file", "file is empty")
    return form.files[0]


def _canonical(form: Form, file: FormFile) -> bytes:
    """What makes two forms the same request: a boundary is another each time, and does not."""
    digest = hashlib.sha256(file.data).hexdigest()
    return msgspec.json.encode({"fields": form.fields, "file": [file.name, file.content_type, digest]})


def _model(fields: Mapping[str, str]) -> str:
    model = fields.get("model", DEFAULT_MODEL)
    if not 1 <= len(model) <= 256:
        raise _invalid("model", "model must be a name of 1 to 256 characters")
    return model


def _format(fields: Mapping[str, str], *, stream: bool) -> Format:
    wanted = fields.get("response_format", "json")
    found = next((each for each in FORMATS if each == wanted), None)
    if found is None:
        raise _invalid("response_format", f"response_format must be one of {', '.join(FORMATS)}")
    if stream and found not in ("json", "text", "diarized_json"):
        raise _invalid("response_format", f"{found} can't be streamed")
    return found


def _flag(value: str) -> bool:
    if value.lower() not in ("", "true", "false"):
        raise _invalid("stream", "stream must be true or false")
    return value.lower() == "true"


def _passed_on(form: Form) -> tuple[tuple[str, str], ...]:
    """Fields that we don't know travel on; those that a provider would misread are refused."""
    for name, value in form.fields:
        if name == "temperature":
            _check_temperature(value)
        if name in ("timestamp_granularities[]", "timestamp_granularities") and value not in _GRANULARITIES:
            raise _invalid("timestamp_granularities", "timestamp_granularities may be word and segment")
    return tuple((name, value) for name, value in form.fields if name not in _OURS)


_OURS = ("model", "response_format", "stream")


def _check_temperature(value: str) -> None:
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if not 0 <= found <= 1:
        raise _invalid("temperature", "temperature must be a number from 0 to 1")


def _invalid(param: str, message: str) -> TollbridgeError:
    return TollbridgeError(Code.INVALID_REQUEST, f"{message}.", details={"param": param})
