"""What goes wrong reaches users of the OpenAI SDK as the exceptions that they catch, and is retried where that helps.

Failing providers are cooled down, so these tests have one of their own: `frail-chat`.
"""

import uuid
from decimal import Decimal
from typing import Any

import openai
import pytest

from tests.integration.offer import price_usd
from tests.integration.running import Account, Gateway, wait_until
from tests.integration.test_openai_sdk import CACHED, OPENAI, OUTPUT, PLAIN, said, sdk

FRAIL = "frail-chat"


@pytest.fixture(scope="module")
def account(system: Gateway) -> Account:
    """A customer with 5 USD."""
    return system.customer(credit_usd="5")


class Counted:
    """The SDK, and the requests that it sent."""

    def __init__(self, account: Account, **options: Any) -> None:
        self.sent: list[Any] = []
        http = openai.DefaultHttpxClient(event_hooks={"request": [self.sent.append]})
        self.client = sdk(account, http_client=http, **options)

    def create(self, **fields: Any) -> Any:
        """A chat."""
        return self.client.chat.completions.create(**fields)


def test_refusals_are_the_sdks_own_exceptions(account: Account) -> None:
    """With status, code, field and the request's id; none of them is sent twice."""
    key = account.gateway.admin("POST", "/admin/keys", customer_id=account.customer_id, name="t", models=[OPENAI])
    limited = Account(account.gateway, account.customer_id, key["key"], key["id"])
    key = account.gateway.admin("POST", "/admin/keys", customer_id=account.customer_id, name="t", tokens_per_minute=9)
    narrow = Account(account.gateway, account.customer_id, key["key"], key["id"])
    poor = account.gateway.customer(credit_usd="0.000001")
    stranger = Account(account.gateway, "", "tb_live_wrong", "")
    hi = [{"role": "user", "content": "hi"}]
    cases: list[tuple[Account, dict[str, Any], type[openai.APIStatusError], int, str, str | None]] = [
        (stranger, {}, openai.AuthenticationError, 401, "invalid_api_key", None),
        (limited, {"model": "claudius-chat"}, openai.PermissionDeniedError, 403, "model_not_allowed", "model"),
        (account, {"model": "nope"}, openai.NotFoundError, 404, "model_not_found", "model"),
        (account, {"temperature": 3}, openai.BadRequestError, 400, "invalid_request", "temperature"),
        (account, {"messages": []}, openai.BadRequestError, 400, "invalid_request", "messages"),
        (poor, {"max_tokens": 4000}, openai.APIStatusError, 402, "insufficient_credits", None),
        (narrow, {"max_tokens": 10}, openai.RateLimitError, 429, "rate_limit_exceeded", None),
    ]
    for who, fields, kind, status, code, param in cases:
        counted = Counted(who, max_retries=2)
        with pytest.raises(kind) as caught:
            counted.create(**{"model": OPENAI, "messages": hi, **fields})
        error = caught.value
        assert (error.status_code, error.code, len(counted.sent)) == (status, code, 1), error
        assert param is None or error.param == param
        assert error.request_id
        assert error.message


def test_an_unknown_path_is_not_found(account: Account) -> None:
    """Parts of the SDK that nobody offers here raise what one can catch."""
    with pytest.raises(openai.NotFoundError):
        sdk(account).fine_tuning.jobs.list()
    with pytest.raises(openai.NotFoundError):
        sdk(account).files.list()


def test_a_provider_that_is_busy_is_tried_again(system: Gateway) -> None:
    """The SDK waits as long as it is told, asks again, and pays once."""
    customer = system.customer(credit_usd="5")
    counted = Counted(customer, max_retries=5)
    messages = said(FRAIL, status=429, status_times=1, retry_after=1, message=str(uuid.uuid4()))
    answer = counted.create(model=FRAIL, messages=messages)
    assert answer.choices[0].finish_reason == "stop"
    assert len(counted.sent) > 1
    price = price_usd(FRAIL, input=PLAIN, cached_input=CACHED, output=OUTPUT)
    wait_until(lambda: customer.credits()["balance"] == 5 - price, timeout_s=10, what="it is paid")


def test_a_busy_provider_is_a_503_that_says_when(account: Account) -> None:
    """An InternalServerError to the SDK, with the time to wait."""
    with pytest.raises(openai.InternalServerError) as caught:
        sdk(account).chat.completions.create(model=FRAIL, messages=said(FRAIL, status=429, retry_after=1))
    assert caught.value.status_code == 503
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60


def test_a_provider_that_fails_costs_nothing(system: Gateway) -> None:
    """Tried as often as the user said, then raised."""
    customer = system.customer(credit_usd="5")
    counted = Counted(customer, max_retries=1)
    with pytest.raises(openai.InternalServerError) as caught:
        counted.create(model=FRAIL, messages=said(FRAIL, status=500))
    assert caught.value.status_code in (502, 503)
    assert len(counted.sent) == 2
    assert customer.settled_credits()["balance"] == 5


def test_a_stream_that_breaks_raises_and_costs_nothing(account: Account) -> None:
    """Nobody takes half an answer for a whole one."""
    raw = sdk(account).chat.completions.with_raw_response.create(
        model=OPENAI, messages=said(OPENAI, fail_after_chunks=2), stream=True
    )
    seen: list[Any] = []
    with pytest.raises(openai.APIError):
        seen.extend(raw.parse())
    assert seen
    receipt = account.receipt(raw.headers["x-request-id"])
    assert (Decimal(receipt["charge"]), receipt["ended"]) == (0, "upstream_failed")


def test_retries_with_an_idempotency_key_are_paid_once(system: Gateway) -> None:
    """The SDK gives up waiting, asks again with the same key, and gets the first one's answer."""
    customer = system.customer(credit_usd="5")
    counted = Counted(customer, max_retries=8, timeout=0.5)
    answer = counted.create(
        model=OPENAI,
        messages=said(OPENAI, first_byte_ms=900),
        extra_headers={"Idempotency-Key": str(uuid.uuid4())},
    )
    assert len(counted.sent) > 1
    assert answer.usage.completion_tokens == OUTPUT
    price = price_usd(OPENAI, input=PLAIN, cached_input=CACHED, output=OUTPUT)
    assert customer.settled_credits()["balance"] == 5 - price
