"""Every dialect answers every code, in its own words, with the headers that SDKs act upon."""

import json

import pytest

from chassis.errors import Code, TollbridgeError
from services.edge.dialects import DIALECTS


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
def test_every_503_says_when_to_come_again(name: str, code: Code) -> None:
    """Whoever raised it without a time: a second."""
    rendered = DIALECTS[name].render_error(TollbridgeError(code, "Not now."), request_id="r")
    assert dict(rendered.headers).get(b"retry-after") == (b"1" if rendered.status == 503 else None)


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
