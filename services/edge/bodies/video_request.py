"""The body of a video request: JSON, or the form that the official SDKs send, with a picture as a file. Pure.

Tasks keeps JSON only, so the picture becomes a data URL in `input_reference`, as a JSON body has it.
"""

import base64
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from chassis.errors import Code, TollbridgeError
from services.edge.bodies.request_body import decode_body
from upstream.form import FormFile, FormProblem, read_form
from upstream.openai.video_fields import VideoFields

MAX_FORM_BYTES = 14 << 20
"""So that its picture in base64 is within what a JSON body may be."""
DEFAULT_MODEL = "sora-2"
_MULTIPART = "multipart/form-data"
_MAGIC = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"))
_NESTED = "input_reference[image_url]"


class VideoBody(VideoFields, frozen=True, kw_only=True):
    """As OpenAI's. Fields that are not here are handed to the provider as they are."""

    model: Annotated[str, Meta(min_length=1, max_length=256)] = DEFAULT_MODEL
    webhook_url: str | None = None


_DECODER = msgspec.json.Decoder(VideoBody)


def is_form(content_type: str) -> bool:
    """Whether a body of that type is a form."""
    return content_type.partition(";")[0].strip().lower() == _MULTIPART


def read(body: bytes, content_type: str) -> tuple[VideoBody, bytes]:
    """The request, and its body in JSON. Raises INVALID_REQUEST with `param`."""
    whole = _as_json(body, content_type) if is_form(content_type) else body
    video = decode_body(whole, _DECODER)
    problem = video.problem()
    if problem is not None:
        raise _invalid(problem[0], f"{problem[0]} is wrong: {problem[1]}")
    return video, whole


def _as_json(body: bytes, content_type: str) -> bytes:
    try:
        form = read_form(body, content_type)
    except FormProblem as error:
        raise TollbridgeError(Code.INVALID_REQUEST, str(error)) from error
    fields: dict[str, Any] = dict(form.fields)
    reference = _reference(form.files, fields)
    fields.pop(_NESTED, None)
    if reference is not None:
        fields["input_reference"] = reference
    return msgspec.json.encode(fields)


def _reference(files: tuple[FormFile, ...], fields: Mapping[str, str]) -> dict[str, str] | None:
    if not files:
        return {"image_url": fields[_NESTED]} if _NESTED in fields else None
    if len(files) > 1 or files[0].field != "input_reference":
        raise _invalid("input_reference", "A form may have one file, input_reference")
    data = files[0].data
    kind = next((kind for magic, kind in _MAGIC if data.startswith(magic)), None)
    if kind is None and data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "image/webp"
    if kind is None:
        raise _invalid("input_reference", "input_reference must be a PNG, JPEG or WebP")
    return {"image_url": f"data:{kind};base64,{base64.b64encode(data).decode()}"}


def _invalid(param: str, message: str) -> TollbridgeError:
    return TollbridgeError(Code.INVALID_REQUEST, f"{message}.", details={"param": param})
