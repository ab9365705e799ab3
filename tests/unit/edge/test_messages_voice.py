"""Clients of `/messages` get Anthropic's errors on every surface, with that surface's status."""

import json

import pytest

from chassis.errors import Code, TollbridgeError
from services.edge.dialects import DIALECTS
from services.edge.dialects.messages import messages_voice
from upstream.anthropic.costly import refuse_costly


@pytest.mark.parametrize("name", sorted(DIALECTS))
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.INVALID_REQUEST, "invalid_request_error"),
        (Code.PROVIDER_REJECTED, "invalid_request_error"),
        (Code.IDEMPOTENCY_MISMATCH, "invalid_request_error"),
        (Code.INVALID_API_KEY, "authentication_error"),
        (Code.MODEL_NOT_ALLOWED, "permission_error"),
        (Code.MODEL_NOT_FOUND, "not_found_error"),
        (Code.REQUEST_TOO_LARGE, "request_too_large"),
        (Code.INSUFFICIENT_CREDITS, "billing_error"),
        (Code.SPEND_CAP_REACHED, "billing_error"),
        (Code.RATE_LIMIT_EXCEEDED, "rate_limit_error"),
        (Code.OVERLOADED, "overloaded_error"),
        (Code.PROVIDER_ERROR, "api_error"),
        (Code.INTERNAL, "api_error"),
    ],
)
def test_an_error_has_anthropics_body_and_the_surfaces_status(name: str, code: Code, kind: str) -> None:
    """Type and message in the one shape; no money is a billing_error, whether the surface says 402 or 403."""
    dialect = DIALECTS[name]
    rendered = messages_voice(dialect).render_error(TollbridgeError(code, "It is so."), request_id="r-1")
    body = json.loads(rendered.body)
    assert rendered.status == dialect.statuses[code]
    assert (body["type"], body["error"]["type"], body["request_id"]) == ("error", kind, "r-1")
    assert body["error"]["message"]
    assert dict(rendered.headers)[b"request-id"] == dict(rendered.headers)[b"x-request-id"] == b"r-1"


def test_every_error_names_its_field() -> None:
    """Anthropic's body has no place for it but the message."""
    error = TollbridgeError(Code.INVALID_REQUEST, "It is not valid.", details={"param": "messages[0].role"})
    body = json.loads(messages_voice(DIALECTS["openai"]).render_error(error, request_id="r").body)
    assert body["error"] == {"type": "invalid_request_error", "message": "messages[0].role: It is not valid."}


def test_a_thread_is_refused_in_words_that_sdks_act_upon() -> None:
    """Their tool runners ask for one, and go on without it when they are told so."""
    with pytest.raises(TollbridgeError) as refused:
        refuse_costly({"thread": {"type": "create"}})
    body = json.loads(messages_voice(DIALECTS["openai"]).render_error(refused.value, request_id="r").body)
    assert body["error"]["details"] == {"error_code": "thread_unsupported_request"}
    assert "thread" in body["error"]["message"]


def test_a_stream_that_fails_ends_with_an_error_event() -> None:
    """The event has a name, as all of Anthropic's."""
    event = messages_voice(DIALECTS["openai"]).stream_error(TollbridgeError(Code.PROVIDER_ERROR, "No."), request_id="r")
    name, data, *rest = event.decode().split("\n")
    assert (name, rest) == ("event: error", ["", ""])
    assert json.loads(data.removeprefix("data: "))["error"] == {"type": "api_error", "message": "No."}
