"""A job's body, read as its kind has it. Pure.

Edge has validated the body for the client's sake; it is checked again here because other teams call tasks directly and
because its fields decide how much money is held.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from chassis.errors import Code, TollbridgeError

MAX_BODY_BYTES = 20 << 20
_FIELD = re.compile(r"`\$\.([\w.]+)|required field `(\w+)`")
_UNPRICED = frozenset(
    {
        "batch_size",
        "duration",
        "frame_count",
        "frames",
        "generate_audio",
        "height",
        "max_images",
        "megapixels",
        "num_frames",
        "num_images",
        "num_images_per_prompt",
        "num_outputs",
        "num_samples",
        "num_videos",
        "number_of_images",
        "number_of_videos",
        "resolution",
        "samples",
        "steps",
        "svg",
        "video_length",
        "width",
    }
)
"""By which providers are asked for more, or for larger and longer, than `n`, `size` and `seconds` say and price."""
T = TypeVar("T")


def read(body: bytes, kind: type[T]) -> tuple[T, dict[str, Any]]:
    """The body's fields as `kind` and as they came. Raises INVALID_REQUEST with `param`, REQUEST_TOO_LARGE."""
    if len(body) > MAX_BODY_BYTES:
        raise TollbridgeError(Code.REQUEST_TOO_LARGE, "The request's body is too large.")
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid("body", "is not JSON") from error
    if not isinstance(fields, dict):
        raise invalid("body", "is not a JSON object")
    try:
        return msgspec.convert(fields, kind), fields
    except msgspec.ValidationError as error:
        found = _FIELD.search(str(error))
        raise invalid(next(filter(None, found.groups()), "body") if found else "body", f"is wrong: {error}") from error


def refuse_unpriced(fields: Mapping[str, object]) -> None:
    """Raises INVALID_REQUEST for a field that would have more made than is held and charged.

    The list is kept by hand from the providers' documents; a field that is unknown here travels on.
    """
    for name in sorted(_UNPRICED & fields.keys()):
        if fields[name] is not None and fields[name] is not False:
            raise invalid(name, "is not priced: what is made is said by n, size, quality and seconds")


def invalid(param: str, what: str) -> TollbridgeError:
    """The refusal of a field."""
    return TollbridgeError(Code.INVALID_REQUEST, f"{param} {what}.", details={"param": param})
