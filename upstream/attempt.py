"""One attempt's verdict, and the loop over attempts that router decides on.

Retries happen only before the first byte of an answer: `call` returns once that byte is there, and what happens after
it is no longer this loop's business. Router ends a failed attempt itself when it is named in the next `decide`; an
attempt that no further decision follows is handed to `finish`, which must not block: a cancelled request has no time.
"""

import dataclasses
import datetime
import email.utils
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from chassis.errors import TollbridgeError
from upstream.outcome import AttemptFailed, Outcome
from upstream.redact import without_secrets
from upstream.route import Route

T = TypeVar("T")
MAX_PAUSE_S = 3600.0
_REJECTED = frozenset({400, 413, 422})
_CREDENTIAL_REFUSED = frozenset({401, 402, 403})
_RATE_LIMITED = frozenset({429, 529})
_NOT_FOUND = 404
_NOT_OFFERED = frozenset({404, 405, 501})
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_.\[\]-]{0,99}")
_MAX_DEPTH = 8
"""No known error body has its message deeper."""
_FINAL = frozenset({Outcome.REJECTED, Outcome.CANCELLED})
"""No other account would do better: the request is wrong, or nobody waits for it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """How one attempt ended: what router learns from, also a replica that has not decided on it.

    `first_byte_s` is how long after the decision its answer began; 0 when none did.
    """

    attempt_id: str
    provider_account_id: str
    outcome: Outcome
    retry_after_s: float = 0.0
    first_byte_s: float = 0.0


def ended(route: Route, outcome: Outcome, *, retry_after_s: float = 0.0, first_byte_s: float = 0.0) -> Tried:
    """How the attempt on this route ended."""
    return Tried(
        attempt_id=route.attempt_id,
        provider_account_id=route.provider_account_id,
        outcome=outcome,
        retry_after_s=retry_after_s,
        first_byte_s=first_byte_s,
    )


async def run_attempts(
    *,
    decide: Callable[[Sequence[Tried]], Awaitable[Route]],
    call: Callable[[Route], Awaitable[T]],
    finish: Callable[[Tried], None],
    max_attempts: int,
) -> T:
    """Runs attempts until one succeeds, and returns what its `call` returned.

    That attempt is still open: the caller finishes it. Raises the last AttemptFailed, or what the first `decide`
    raised, or a later one for which all are busy. `finish` is called once for an attempt that failed and that no later
    `decide` has taken over.
    """
    tried: list[Tried] = []
    last: AttemptFailed | None = None
    for number in range(max_attempts):
        try:
            route = await decide(tuple(tried))
        except BaseException as error:
            if tried:
                finish(tried[-1])  # whether router has learnt of it is unknown; it counts an attempt once
            if last is not None and isinstance(error, TollbridgeError) and not _is_busy(error):
                raise last from error
            raise
        try:
            return await call(route)
        except AttemptFailed as failure:
            last = failure
            end = ended(route, failure.outcome, retry_after_s=failure.retry_after_s)
            if failure.outcome in _FINAL or not route.may_retry or number + 1 == max_attempts:
                finish(end)
                raise
            tried.append(end)
        except BaseException:
            finish(ended(route, Outcome.CANCELLED))
            raise
    raise ValueError("max_attempts must be at least 1")


def _is_busy(error: TollbridgeError) -> bool:
    """Whether an account that is well has no room now: to come back later is better advice than that one failed."""
    return error.details.get("reason") == "busy"


def classify(status: int, headers: Mapping[str, str], body: bytes, *, is_rare: bool = False) -> AttemptFailed:
    """What an answer that is no success means. `body` is the start of its body; `is_rare` as `HttpCall` has it.

    Any customer can ask any model for an endpoint that it does not have: that must rest neither it nor its account.
    """
    message = provider_message(body)
    outcome, words = _verdict(status, message)
    if is_rare and status in _NOT_OFFERED:
        outcome, words = Outcome.NOT_OFFERED, f"the provider does not offer this ({status})"
    pause_s = retry_after_s(headers) if outcome in {Outcome.RATE_LIMITED, Outcome.SERVER_ERROR} else 0.0
    param = provider_param(body) if outcome is Outcome.REJECTED else ""
    return AttemptFailed(outcome, words, status=status, retry_after_s=pause_s, excerpt=message, param=param)


def _verdict(status: int, message: str) -> tuple[Outcome, str]:
    if status in _REJECTED:
        return Outcome.REJECTED, message or "the provider rejected the request"
    if status in _CREDENTIAL_REFUSED:
        return Outcome.CREDENTIAL_REFUSED, f"the provider refuses our credential ({status})"
    if status in _RATE_LIMITED:
        return Outcome.RATE_LIMITED, f"the provider is over its limit ({status})"
    if status == _NOT_FOUND:
        return Outcome.MODEL_UNKNOWN, "the provider does not know the model (404)"
    return Outcome.SERVER_ERROR, f"the provider answered {status}"


def provider_message(body: bytes) -> str:
    """The provider's own words in an error body of any known shape, bounded and without anything like a secret."""
    try:
        decoded: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        decoded = body[:4000].decode("utf-8", "replace").strip()
        if str(decoded).startswith("<"):
            return ""  # an HTML page of some proxy says nothing to anybody
    return without_secrets(_message_in(decoded, _MAX_DEPTH))


class _Named(msgspec.Struct, frozen=True):
    param: str | None = None


class _Refusal(msgspec.Struct, frozen=True):
    error: _Named | None = None


def provider_param(body: bytes) -> str:
    """The request's field that an error body in OpenAI's shape names; empty where none is, or what is none."""
    try:
        found = msgspec.json.decode(body, type=_Refusal)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    param = found.error.param if found.error is not None else None
    return param if param and _FIELD.fullmatch(param) else ""


def _message_in(value: object, depth: int) -> str:
    """The first text that stands no deeper than `depth`."""
    if isinstance(value, str):
        return value
    if not depth:
        return ""
    if isinstance(value, list):
        return _message_in(value[0], depth - 1) if value else ""
    if not isinstance(value, dict):
        return ""
    for name in ("error", "message", "detail", "msg", "errors"):
        found = _message_in(value.get(name), depth - 1)
        if found:
            return _placed(found, value.get("loc")) if name == "msg" else found
    return ""


def _placed(message: str, where: object) -> str:
    """What pydantic has to say, which is of no use without the place."""
    steps = [each for each in where[:10] if isinstance(each, (str, int))] if isinstance(where, list) else []
    place = ".".join(str(step)[:100] for step in steps if step != "body")
    return f"{place}: {message}" if place else message


def retry_after_s(headers: Mapping[str, str], *, now: datetime.datetime | None = None) -> float:
    """The Retry-After in seconds, given as seconds or as an HTTP date; 0 without one that can be read."""
    text = headers.get("retry-after", "").strip()
    if not text:
        return 0.0
    try:
        seconds = float(text) if text.replace(".", "", 1).isdecimal() else _seconds_until(text, now)
    except (ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), MAX_PAUSE_S)


def _seconds_until(text: str, now: datetime.datetime | None) -> float:
    at = email.utils.parsedate_to_datetime(text)
    if at.tzinfo is None:
        at = at.replace(tzinfo=datetime.UTC)
    return (at - (now or datetime.datetime.now(datetime.UTC))).total_seconds()
