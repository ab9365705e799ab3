"""The bytes of a request's body: read within bounds, and checked for what no parser should be given.

Size and time are bounded while it is read, depth before anything recursive looks at it. A wrong field is refused with
its name in `param`.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, TypeVar

import msgspec

from chassis.errors import Code, TollbridgeError
from services.edge.http.body_room import SMALL_BYTES, BodyRoom, BodyShare

T = TypeVar("T")
Fields = Mapping[str, object]
"""A body by its top-level fields, their values as the client wrote them."""

MAX_BODY_BYTES = 20 << 20
BODY_TIMEOUT_S = 60.0
SECOND_LOOK_S = 0.05
"""A loop that stood still runs its timers before it reads what came meanwhile; in so long it has read most of it."""
MAX_DEPTH = 64
MOST_CONTAINERS = 1 << 17
"""Objects and lists of one body: each takes microseconds of everybody's time. Anthropic's limit is 100,000 messages."""
MANY_CONTAINERS = 1000
"""So many are read, checked and translated within some milliseconds."""
TINY_BYTES = 8 << 10
_TEXTS = re.compile(rb'"[^"]*+"')
_SLICE_BYTES = 1 << 20
"""What one step looks at: meanwhile nothing else runs, in whichever thread."""
_EXTREME_NUMBER = re.compile(rb"[0-9.][eE][+-]?0*[0-9]{3}|[0-9]{300}")
"""Finds every number that could be beyond all floats or at their edges, and texts that look so."""
_NUMBER_SHAPES = bytes(
    ord("0" if chr(byte) in "0123456789." else "e" if chr(byte) in "eE" else "+" if chr(byte) in "+-" else " ")
    for byte in range(256)
)
_EXTREME_SHAPES = (b"0e000", b"0e+000", b"0" * 300)
"""The same, a little coarser, in a tenth of the time: most bodies have none."""
_TO_LARGE_EXPONENT = re.compile(rb'(?:[^"eE]++|"(?:[^"\\]++|\\.)*+"|[eE](?![+-]?0*+[0-9]{3}))*+[eE]', re.DOTALL)
"""All up to the next exponent of three digits or more that is in no text."""
MAX_LARGE_EXPONENTS = 1000
"""A number at the edges of what a float can be takes up to 50 µs to read: a body full of them would stop everything."""
_ALL_BUT_MARKS = bytes(byte for byte in range(256) if byte not in b'[]{}"')
_RAW_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_AT = re.compile(r" - at `\$\.?(.*?)`$")
_MISSING = re.compile(r"missing required field `(.+?)`")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


def decode_body(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """A JSON body, checked. Raises INVALID_REQUEST with `param` where a field is to blame."""
    extreme = check_bytes(body)
    found = decode_part(body, decoder)
    check_structure(body)
    if extreme:
        _check_numbers(body)
    return found


def decode_part(part: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[T]) -> T:
    """A part of a body that was checked as a whole. Raises INVALID_REQUEST with `param` where a field is to blame."""
    try:
        return decoder.decode(part)
    except msgspec.ValidationError as error:
        raise _wrong_field(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TollbridgeError(Code.INVALID_REQUEST, "The body is not valid JSON.") from error


def top_level(body: bytes) -> Fields:
    """A checked body by its top-level fields."""
    return _RAW_FIELDS.decode(body)


async def aside(body: bytes, work: Callable[..., T], *arguments: object, **named: object) -> T:
    """What `work` makes of a request with this body: off the loop when it is large, since everybody's streams wait."""
    if is_large(body):
        return await asyncio.to_thread(work, *arguments, **named)
    return work(*arguments, **named)


def is_large(body: bytes) -> bool:
    """By its bytes, or by its objects and lists, of which those in texts are counted too."""
    if len(body) <= TINY_BYTES:
        return False
    return len(body) > SMALL_BYTES or body.count(b"{") + body.count(b"[") > MANY_CONTAINERS


async def read_body(
    receive: Receive,
    headers: Iterable[tuple[bytes, bytes]],
    *,
    most_bytes: int = MAX_BODY_BYTES,
    share: BodyShare | None = None,
) -> bytes:
    """The whole body, refused as soon as it is too large or too slow. `share` is of the room that there is for it.

    Raises REQUEST_TOO_LARGE, INVALID_REQUEST, OVERLOADED; ClientLeft when the client goes away before its end.
    """
    for name, value in headers:
        if name == b"content-length" and value.isdigit() and int(value[:12]) > most_bytes:
            raise _too_large(most_bytes)
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise TollbridgeError(Code.INVALID_REQUEST, "Bodies must not be compressed.")
    try:
        return await _read_in_time(receive, most_bytes, share or BodyRoom().share())
    except TimeoutError:
        raise TollbridgeError(Code.INVALID_REQUEST, "The body did not come in time.") from None


async def _read_in_time(receive: Receive, most_bytes: int, share: BodyShare) -> bytes:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:
        first_look = loop.call_later(BODY_TIMEOUT_S, lambda: limit.reschedule(loop.time() + SECOND_LOOK_S))
        try:
            return await _read(receive, most_bytes, share)
        finally:
            first_look.cancel()


async def _read(receive: Receive, most_bytes: int, share: BodyShare) -> bytes:
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        whole: bytes = message.get("body", b"")
        if len(whole) > most_bytes:
            raise _too_large(most_bytes)
        share.grow(len(whole))
        return whole
    parts = bytearray()
    while message["type"] == "http.request":
        parts += message.get("body", b"")
        if len(parts) > most_bytes:
            raise _too_large(most_bytes)
        share.grow(len(parts))
        if not message.get("more_body", False):
            return bytes(parts)
        message = await receive()
    raise ClientLeft


class ClientLeft(Exception):
    """The client went away before its request was whole: there is nobody to answer."""


def check_bytes(body: bytes) -> bool:
    """What to know of a body before anything reads it as JSON: that fields which are not decoded here are UTF-8 too,
    and that its numbers can be read in no time. Returns whether any of them may be extreme. Raises INVALID_REQUEST.
    """
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise TollbridgeError(Code.INVALID_REQUEST, "The body is not valid UTF-8.") from error
    shapes = body.translate(_NUMBER_SHAPES)
    if not any(shape in shapes for shape in _EXTREME_SHAPES) or not _EXTREME_NUMBER.search(body):
        return False
    place = _TO_LARGE_EXPONENT.match(body)
    for _ in range(MAX_LARGE_EXPONENTS):
        if place is None:
            return True
        place = _TO_LARGE_EXPONENT.match(body, place.end())
    raise TollbridgeError(Code.INVALID_REQUEST, "The body holds too many numbers with large exponents.")


def _check_numbers(body: bytes) -> None:
    """Fields that are not decoded here are elsewhere: a number beyond all floats must not wait for that."""
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise TollbridgeError(Code.INVALID_REQUEST, "The body holds a number that is out of range.") from error


def check_structure(body: bytes) -> None:
    """Refuses valid JSON that is nested deeper than MAX_DEPTH, or made of too many objects and lists.

    At the speed of C whatever its shape. Raises INVALID_REQUEST, with the field that has most of them.
    """
    brackets = body.count(b"[") + body.count(b"{")
    if brackets <= MAX_DEPTH:
        return
    structure = structure_of(body)
    if len(structure) > 2 * MOST_CONTAINERS:
        raise _too_manifold(body)
    for _ in range(MAX_DEPTH):
        structure = structure.translate(_AS_ROUND).replace(b"()", b"")
        if not structure:
            return
    raise TollbridgeError(Code.INVALID_REQUEST, f"The body is nested deeper than {MAX_DEPTH} levels.")


_AS_ROUND = bytes.maketrans(b"[]{}", b"()()")
"""In valid JSON brackets match anyway, so one kind is enough to see the depth."""


def structure_of(body: bytes) -> bytes:
    """The brackets of valid JSON that are in no text.

    Without escaped quotes each quote opens or closes a text. A pair of them side by side tells nothing of what is in
    and what is out, so most texts vanish before the only slow step, which goes by slices.
    """
    marks = body.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _ALL_BUT_MARKS).replace(b'""', b"")
    found, within = [], 0
    for start in range(0, len(marks), _SLICE_BYTES):
        piece = marks[start : start + _SLICE_BYTES]
        before, within = within, (within + piece.count(b'"')) % 2
        found.append(_TEXTS.sub(b"", b'"' * before + piece + b'"' * within))
    return b"".join(found)


def _too_manifold(body: bytes) -> TollbridgeError:
    sizes = {name: len(structure_of(bytes(raw))) for name, raw in _RAW_FIELDS.decode(body).items()}
    largest = max(sizes, key=lambda name: sizes[name])
    message = f"The body has more than {MOST_CONTAINERS} objects and lists, most of them in {largest}."
    return TollbridgeError(Code.INVALID_REQUEST, message, details={"param": largest})


def _wrong_field(message: str) -> TollbridgeError:
    at = _AT.search(message)
    missing = _MISSING.search(message)
    parts = [found.group(1) for found in (at, missing) if found and found.group(1)]
    details = {"param": ".".join(parts)} if parts else {}
    words = _AT.sub("", message)
    if missing:
        words = f"You must provide {details['param']}"
    elif details:
        words = f"{details['param']} is not valid: {words[0].lower()}{words[1:]}"
    return TollbridgeError(Code.INVALID_REQUEST, f"{words}.", details=details)


def _too_large(most_bytes: int) -> TollbridgeError:
    return TollbridgeError(Code.REQUEST_TOO_LARGE, f"The body is larger than {most_bytes >> 20} MiB.")
