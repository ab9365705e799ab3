"""Every dialect answers every code, in its own words, with the headers that SDKs act upon."""

import ast
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from chassis.errors import Code, TollbridgeError
from services.edge.dialects import DEFAULT, DIALECTS
from services.edge.routes.models import shown
from tollbridge.router.v1 import router_pb2

EDGE = Path(__file__).parents[3] / "services/edge"
SEEDS = {"dropstone", "techstone", "dragonfly", "drawbridge", "platform"}


def body_of(name: str, code: Code, message: str = "It did not work.", **options: Any) -> tuple[int, Any]:
    """Status and JSON of an error in that dialect."""
    rendered = DIALECTS[name].render_error(TollbridgeError(code, message, **options), request_id="r")
    return rendered.status, json.loads(rendered.body)


@pytest.mark.parametrize("name", sorted(DIALECTS))
@pytest.mark.parametrize("code", list(Code))
def test_every_dialect_renders_every_code(name: str, code: Code) -> None:
    """No error of the closed list is without a status and a JSON body with an `error`."""
    rendered = DIALECTS[name].render_error(TollbridgeError(code, "It did not work."), request_id="r-1")
    assert 400 <= rendered.status <= 599
    assert "error" in json.loads(rendered.body)
    assert (b"x-request-id", b"r-1") in rendered.headers
    assert dict(rendered.headers)[b"content-length"] == str(len(rendered.body)).encode()


def test_openai_errors_have_openais_four_fields() -> None:
    """`{error: {message, type, param, code}}`, with the field named."""
    error = TollbridgeError(Code.INVALID_REQUEST, "n must be 1 to 128.", details={"param": "n"})
    body = json.loads(DIALECTS["openai"].render_error(error, request_id="r").body)
    assert body == {
        "error": {
            "message": "n must be 1 to 128.",
            "type": "invalid_request_error",
            "param": "n",
            "code": "invalid_request",
        }
    }


@pytest.mark.parametrize(("given", "shown"), [(0.2, b"1"), (12.4, b"13"), (4000.0, b"60")])
def test_retry_after_is_whole_seconds_up_to_a_minute(given: float, shown: bytes) -> None:
    """`Retry-After` is rounded up and bounded."""
    error = TollbridgeError(Code.UNAVAILABLE, "Soon.", retry_after_s=given)
    headers = dict(DIALECTS["openai"].render_error(error, request_id="r").headers)
    assert headers[b"retry-after"] == shown


@pytest.mark.parametrize("name", sorted(DIALECTS))
@pytest.mark.parametrize("code", list(Code))
def test_every_429_and_503_says_when_to_come_again(name: str, code: Code) -> None:
    """Whoever raised it without a time: a second."""
    rendered = DIALECTS[name].render_error(TollbridgeError(code, "Not now."), request_id="r")
    assert dict(rendered.headers).get(b"retry-after") == (b"1" if rendered.status in (429, 503) else None)


def test_no_money_is_not_retried() -> None:
    """402 tells SDKs not to try again."""
    error = TollbridgeError(Code.INSUFFICIENT_CREDITS, "No money.")
    rendered = DIALECTS["openai"].render_error(error, request_id="r")
    assert rendered.status == 402
    assert (b"x-should-retry", b"false") in rendered.headers


def test_a_stream_ends_with_an_error_event() -> None:
    """The error event is one `data:` line with the same body, followed by a blank line."""
    event = DIALECTS["openai"].stream_error(TollbridgeError(Code.PROVIDER_ERROR, "It broke."))
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == "provider_error"


def test_all_seed_systems_have_a_dialect() -> None:
    """Each file in the folder is one; what a surface speaks by default is OpenAI's."""
    assert {*SEEDS, "openai"} <= set(DIALECTS)
    assert DEFAULT is DIALECTS["openai"]
    assert all(dialect.name == name for name, dialect in DIALECTS.items())


def test_nothing_else_in_edge_knows_a_dialect_by_name() -> None:
    """What differs is data in the dialect's file; `openai` is a provider's protocol too, so it isn't looked for."""
    names = set(DIALECTS) - {"openai"}
    knowing = {
        f"{path.name}:{node.lineno}"
        for path in EDGE.rglob("*.py")
        if path.parent.name != "dialects"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in names
    }
    assert knowing == set()


def test_a_dialect_can_be_derived_from_another() -> None:
    """A dialect is plain data: a variant is `dataclasses.replace`."""
    variant = dataclasses.replace(DIALECTS["techstone"], error_body=lambda view: {"type": view.type})
    rendered = variant.render_error(TollbridgeError(Code.PROVIDER_ERROR, "It broke."), request_id="r")
    assert (rendered.status, json.loads(rendered.body)) == (503, {"type": "overloaded_error"})


def test_dropstones_402_is_flat() -> None:
    """`{error, balance, message, topUpUrl}` with the balance as a number."""
    dropstone = dataclasses.replace(DIALECTS["dropstone"], top_up_url="https://example.com/billing")
    for balance, number, words in (
        ("0", 0, "Your credit balance is empty. Top up at https://example.com/billing to continue."),
        ("9800", 0.0000098, "They cover 3 tokens. Top up at https://example.com/billing to continue."),
    ):
        details = {"balance_nano_usd": balance}
        error = TollbridgeError(Code.INSUFFICIENT_CREDITS, "They cover 3 tokens.", details=details)
        rendered = dropstone.render_error(error, request_id="r")
        assert rendered.status == 402
        assert json.loads(rendered.body) == {
            "error": "Insufficient credits",
            "balance": number,
            "message": words,
            "topUpUrl": "https://example.com/billing",
        }
        assert b"e-" not in rendered.body


@pytest.mark.parametrize(("wait_s", "seconds"), [(60.0, 60), (11.2, 12), (None, 1)])
def test_techstone_says_in_words_when_to_retry(wait_s: float | None, seconds: int) -> None:
    """The document's own sentence, with the seconds of `Retry-After`."""
    status, body = body_of("techstone", Code.RATE_LIMIT_EXCEEDED, retry_after_s=wait_s)
    assert status == 429
    assert body == {
        "error": {
            "type": "rate_limit_error",
            "code": "rate_limit_exceeded",
            "message": f"You have exceeded your rate limit. Please retry after {seconds} seconds.",
            "param": None,
        }
    }


@pytest.mark.parametrize(
    ("code", "status", "type_"),
    [
        (Code.INVALID_REQUEST, 400, "bad_request"),
        (Code.MODEL_NOT_FOUND, 400, "bad_request"),
        (Code.INVALID_API_KEY, 401, "unauthorized"),
        (Code.INSUFFICIENT_CREDITS, 403, "forbidden"),
        (Code.CUSTOMER_SUSPENDED, 403, "forbidden"),
        (Code.NOT_FOUND, 404, "not_found"),
        (Code.METHOD_NOT_ALLOWED, 405, "method_not_allowed"),
        (Code.RATE_LIMIT_EXCEEDED, 429, "rate_limit_exceeded"),
        (Code.INTERNAL, 500, "internal_error"),
        (Code.PROVIDER_ERROR, 502, "upstream_error"),
        (Code.PROVIDER_NOT_CONFIGURED, 502, "upstream_error"),
    ],
)
def test_dragonflys_code_is_the_status(code: Code, status: int, type_: str) -> None:
    """`{error: {message, type, code: <status>}}`, with our code as the reason."""
    found, body = body_of("dragonfly", code)
    own = code is Code.INSUFFICIENT_CREDITS
    wanted = {"type": type_, "code": status, "reason": code.value}
    wanted["message"] = "Insufficient balance" if own else "It did not work."
    assert (found, body) == (status, {"error": wanted | ({"detail": "It did not work."} if own else {})})


@pytest.mark.parametrize(
    ("code", "param", "status", "shown_code"),
    [
        (Code.INVALID_API_KEY, None, 401, "invalid_api_key"),
        (Code.CUSTOMER_SUSPENDED, None, 403, "api_disabled"),
        (Code.INVALID_REQUEST, "model", 400, "model_required"),
        (Code.INVALID_REQUEST, "messages", 400, "messages_required"),
        (Code.INVALID_REQUEST, "prompt", 400, "prompt_required"),
        (Code.INVALID_REQUEST, "messages[0].role", 400, "invalid_request"),
        (Code.MODEL_NOT_FOUND, "model", 400, "model_not_available"),
        (Code.INSUFFICIENT_CREDITS, None, 402, "insufficient_credits"),
        (Code.PROVIDER_NOT_CONFIGURED, None, 502, "provider_not_configured"),
        (Code.PROVIDER_ERROR, None, 502, "provider_error"),
        (Code.REQUEST_TOO_LARGE, None, 413, "request_too_large"),
        (Code.INTERNAL, None, 500, "internal_error"),
    ],
)
def test_platforms_type_is_its_code(code: Code, param: str | None, status: int, shown_code: str) -> None:
    """`{error: {message, type, code}}` with one of the document's words for both."""
    details = {} if param is None else {"param": param}
    found, body = body_of("platform", code, details=details)
    message = "Model is not available" if code is Code.MODEL_NOT_FOUND else "It did not work."
    assert (found, body) == (status, {"error": {"message": message, "type": shown_code, "code": shown_code}})


def test_words_that_utf8_cant_say_are_still_sent() -> None:
    """JSON may bring in half of a character; the answer is valid all the same."""
    rendered = DEFAULT.render_error(TollbridgeError(Code.MODEL_NOT_FOUND, "no \ud800"), request_id="r")
    assert json.loads(rendered.body)["error"]["message"] == "no ?"


def priced(category: str = "chat", **rates: int) -> router_pb2.Model:
    """A model at these rates in nano-USD, a fifth on top."""
    price = router_pb2.PriceVersion(rates=router_pb2.Rates(**rates), markup_ppm=1_200_000)
    return router_pb2.Model(id="a/b", owned_by="a", category=category, price=price)


@pytest.mark.parametrize(
    ("model", "per_million", "per_thousand"),
    [
        (
            priced(input=500_000_000, cached_input=50_000_000, output=1_500_000_000),
            {"input": 0.6, "cached_input": 0.06, "output": 1.8},
            {"input": 0.0006, "output": 0.0018},
        ),
        (priced("image", per_image=20_000_000), {"image": 0.024}, {"image": 0.024}),
        (priced("video", per_minute=6_000_000_000), {"second": 0.12}, {"second": 0.12}),
        (priced("transcription", per_minute=6_000_000), {"minute": 0.0072}, {"minute": 0.0072}),
        (priced(), {"input": 0, "cached_input": 0, "output": 0}, {"input": 0, "output": 0}),
    ],
    ids=["tokens", "image", "video", "sound", "free"],
)
def test_prices_are_shown_in_the_dialects_unit(model: router_pb2.Model, per_million: Any, per_thousand: Any) -> None:
    """Per million tokens or per thousand, as exact JSON numbers; a price by the piece in its own unit."""
    for name, wanted in (("openai", per_million), ("dragonfly", per_thousand)):
        row = shown(model, DIALECTS[name])
        assert {unit: float(bytes(raw)) for unit, raw in row["pricing"].items()} == wanted  # type: ignore[attr-defined]
        assert all(b"e" not in bytes(raw).lower() for raw in row["pricing"].values())  # type: ignore[attr-defined]
