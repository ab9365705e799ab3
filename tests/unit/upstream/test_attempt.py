"""Verdicts on refusals, and the loop: retries before the first byte only, every attempt ended once."""

import asyncio
import datetime
import json
from collections.abc import Sequence

import pytest

from chassis.errors import Code, TollbridgeError
from tests.fakes.routes import route_to
from upstream.attempt import Tried, classify, ended, provider_message, retry_after_s, run_attempts
from upstream.outcome import AttemptFailed, Outcome, to_error
from upstream.redact import without_secrets
from upstream.route import Route


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (301, Outcome.SERVER_ERROR),
        (400, Outcome.REJECTED),
        (401, Outcome.CREDENTIAL_REFUSED),
        (402, Outcome.CREDENTIAL_REFUSED),
        (403, Outcome.CREDENTIAL_REFUSED),
        (404, Outcome.MODEL_UNKNOWN),
        (413, Outcome.REJECTED),
        (422, Outcome.REJECTED),
        (429, Outcome.RATE_LIMITED),
        (500, Outcome.SERVER_ERROR),
        (503, Outcome.SERVER_ERROR),
        (529, Outcome.RATE_LIMITED),
    ],
)
def test_statuses(status: int, outcome: Outcome) -> None:
    """Each status means what the contract says; only a rejection shows the provider's words."""
    failure = classify(status, {}, b'{"error":{"message":"their words"}}')
    assert (failure.outcome, failure.status, failure.excerpt) == (outcome, status, "their words")
    assert (failure.message == "their words") is (outcome is Outcome.REJECTED)


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "bad field"}},
        {"error": "bad field"},
        {"message": "bad field"},
        {"detail": [{"msg": "bad field", "loc": ["body"]}]},
        {"detail": "bad field"},
        [{"error": {"message": "bad field"}}],
        {"type": "error", "error": {"type": "invalid_request_error", "message": "bad field"}},
        "bad field",
    ],
)
def test_messages_of_any_shape(body: object) -> None:
    """Every known error body gives its message."""
    assert classify(400, {}, json.dumps(body).encode()).message == "bad field"


def test_bodies_that_are_no_json() -> None:
    """Plain text is shown, a page of HTML or nothing at all is not."""
    assert classify(400, {}, b"plain words\xff").message.startswith("plain words")
    for body in (b"<html>...", b"", b"{}", b"[]", b"[[[[", b"null", b"7", b"[" * 100_000):
        assert len(classify(400, {}, body).message) <= 1000


@pytest.mark.parametrize(("opening", "closing"), [(b'{"error":', b"}"), (b"[", b"]"), (b'[{"message":', b"}]")])
def test_a_message_that_is_buried_deep_is_not_dug_out(opening: bytes, closing: bytes) -> None:
    """However deep a provider nests its error, finding the message costs no stack."""
    assert provider_message(opening * 100 + b'"deep"' + closing * 100) == ""
    assert provider_message(opening * 3 + b'"near"' + closing * 3) == "near"


def test_messages_are_bounded_and_hold_no_secret() -> None:
    """Credentials that a provider echoes do not travel on."""
    for secret in (
        "sk-proj-abcdefghijklmnop",
        "Bearer abcdefgh.ijkl-mnop",
        "sk-ant-api03-abc_def-123",
        "AIzaSyA1234567890abcdef",
        "gsk_abcdefghijklmnopqrst",
        "https://user:pass@internal.host/x",
        "0123456789abcdef0123456789abcdef01234567",
        "tba_AbCdEfGhIjKlMnOpQrSt",
        "edge:0123456789abcdef0123",
        "acme-AbCdEfGhIjKlMnOpQrStUvWxYz0123456789abcdefg",
    ):
        shown = without_secrets(f"Incorrect API key provided: {secret}. Try again")
        assert secret not in shown
        assert shown.startswith("Incorrect API key provided: ")
        assert shown.endswith("Try again")
    for innocent in ("basic understanding", "Bearer authentication", "key_required or-else", "org-specific limits"):
        assert without_secrets(f"needs {innocent}.") == f"needs {innocent}."
    assert without_secrets("max_tokens must be ≥ 1, got -5") == "max_tokens must be ≥ 1, got -5"
    assert len(classify(400, {}, json.dumps({"error": "x " * 100_000}).encode()).message) <= 1000


def test_retry_after() -> None:
    """Seconds, fractions and HTTP dates are read, everything else is 0, nothing is beyond an hour."""
    now = datetime.datetime(2026, 11, 21, 12, 0, tzinfo=datetime.UTC)
    read = {
        "7": 7.0,
        " 1.5 ": 1.5,
        "0": 0.0,
        "-3": 0.0,
        "nan": 0.0,
        "soon": 0.0,
        "99999999999": 3600.0,
        "Sat, 21 Nov 2026 12:00:30 GMT": 30.0,
        "Sat, 21 Nov 2026 11:00:00 GMT": 0.0,
        "٣": 3.0,
    }
    for text, seconds in read.items():
        assert retry_after_s({"retry-after": text}, now=now) == seconds, text
    assert retry_after_s({}) == 0.0
    assert classify(429, {"retry-after": "3"}, b"").retry_after_s == 3.0


def test_what_the_caller_is_told() -> None:
    """A rejection is the caller's, limits are a 503 with a pause, all else is a provider failure without details."""
    assert to_error(classify(400, {}, b'{"message":"no"}')).code is Code.PROVIDER_REJECTED
    limited = to_error(classify(429, {"retry-after": "900"}, b""))
    assert (limited.code, limited.retry_after_s) == (Code.OVERLOADED, 60.0)
    refused = to_error(classify(401, {}, b'{"message":"account 7 is broke"}'))
    assert refused.code is Code.PROVIDER_ERROR
    assert "broke" not in refused.message


def route(number: int, *, may_retry: bool = True) -> Route:
    return route_to(attempt_id=f"a{number}", may_retry=may_retry)


COOLED = TollbridgeError(Code.OVERLOADED, "all cooled", details={"reason": "cooled"}, retry_after_s=5)


class World:
    """A router that decides in order, and a provider whose calls end as listed."""

    def __init__(
        self,
        *ends: BaseException | str,
        may_retry: bool = True,
        decisions: int = 99,
        refusal: TollbridgeError = COOLED,
    ) -> None:
        self.ends = list(ends)
        self.may_retry = may_retry
        self.decisions = decisions
        self.refusal = refusal
        self.asked: list[Sequence[Tried]] = []
        self.finished: list[Tried] = []

    async def decide(self, tried: Sequence[Tried]) -> Route:
        self.asked.append(tried)
        if len(self.asked) > self.decisions:
            raise self.refusal
        return route(len(self.asked), may_retry=self.may_retry)

    async def call(self, _: Route) -> str:
        end = self.ends.pop(0)
        if isinstance(end, BaseException):
            raise end
        return end

    async def run(self, max_attempts: int = 3) -> str:
        return await run_attempts(
            decide=self.decide, call=self.call, finish=self.finished.append, max_attempts=max_attempts
        )


LIMITED = AttemptFailed(Outcome.RATE_LIMITED, "busy", retry_after_s=2)
BROKEN = AttemptFailed(Outcome.SERVER_ERROR, "broken")
REJECTED = AttemptFailed(Outcome.REJECTED, "no")


async def test_goes_on_until_one_succeeds() -> None:
    """Router is told of every failure, and the attempt that succeeded stays open for the caller."""
    world = World(LIMITED, BROKEN, "answer")
    assert await world.run() == "answer"
    assert [len(tried) for tried in world.asked] == [0, 1, 2]
    assert world.asked[2][0] == ended(route(1), Outcome.RATE_LIMITED, retry_after_s=2)
    assert world.finished == []


@pytest.mark.parametrize(
    ("world", "attempts"),
    [
        (World(BROKEN, BROKEN, BROKEN), 3),
        (World(REJECTED), 1),
        (World(BROKEN, may_retry=False), 1),
        (World(AttemptFailed(Outcome.CANCELLED, "gone")), 1),
    ],
)
async def test_gives_up(world: World, attempts: int) -> None:
    """At the bound, when router allows no more, and when no other account would do better; the last is finished."""
    with pytest.raises(AttemptFailed):
        await world.run()
    assert len(world.asked) == attempts
    assert [tried.attempt_id for tried in world.finished] == [f"a{attempts}"]


async def test_no_account_left_is_the_last_failure() -> None:
    """When router has nothing more to offer, the caller learns why the attempts failed."""
    world = World(BROKEN, decisions=1)
    with pytest.raises(AttemptFailed) as failed:
        await world.run()
    assert failed.value is BROKEN
    assert [tried.attempt_id for tried in world.finished] == ["a1"]


async def test_a_well_account_without_room_is_no_failure() -> None:
    """Who might be served there soon is told when to come back, not that the provider failed."""
    busy = TollbridgeError(Code.OVERLOADED, "all slots are busy", details={"reason": "busy"}, retry_after_s=7)
    world = World(BROKEN, decisions=1, refusal=busy)
    with pytest.raises(TollbridgeError) as refused:
        await world.run()
    assert refused.value is busy
    assert [tried.attempt_id for tried in world.finished] == ["a1"]


async def test_no_route_at_all_is_routers_refusal() -> None:
    """Without any attempt, router's error is the answer."""
    world = World(decisions=0)
    with pytest.raises(TollbridgeError):
        await world.run()
    assert world.finished == []


@pytest.mark.parametrize("error", [asyncio.CancelledError(), RuntimeError("a bug")])
async def test_cancelled_attempts_are_finished(error: BaseException) -> None:
    """An attempt that nobody waits for gives its slot back and says nothing about the account."""
    world = World(error)
    with pytest.raises(type(error)):
        await world.run()
    assert world.finished == [ended(route(1), Outcome.CANCELLED)]
