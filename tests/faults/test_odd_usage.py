"""Providers that miscount: what can not be true is counted by us, what is said twice is charged once."""

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.offer import CONFIG, price_usd
from tests.integration.running import Account, Gateway, gateway, provider

STREAM_OR_EACH = (True, pytest.param(False, marks=pytest.mark.thorough))
"""For counts that both ways of reading share."""
ABSURD: dict[str, dict[str, Any]] = {
    "negative": {"prompt_tokens": -5},
    "negative output": {"completion_tokens": -1},
    "absurd": {"completion_tokens": 10**18},
    "beyond 64 bits": {"prompt_tokens": 10**30},
    "fraction": {"completion_tokens": 7.5},
    "text": {"completion_tokens": "30"},
    "more cached than there is": {"prompt_tokens_details": {"cached_tokens": 99}},
    "nothing in it": {"prompt_tokens": None, "completion_tokens": None},
}
ABSURD_MESSAGES: dict[str, dict[str, Any]] = {
    "negative": {"input_tokens": -5},
    "negative output": {"output_tokens": -1},
    "negative cache": {"cache_read_input_tokens": -40},
    "absurd": {"output_tokens": 10**18},
    "beyond 64 bits": {"input_tokens": 10**30},
    "fraction": {"output_tokens": 7.5},
    "text": {"output_tokens": "30"},
    "no output": {"output_tokens": None},
    "nothing in it": {
        "input_tokens": None,
        "output_tokens": None,
        "cache_read_input_tokens": None,
        "cache_creation_input_tokens": None,
        "cache_creation": None,
    },
}
TRUE = {"chunks": 3, "input_tokens": 40, "output_tokens": 30}
PRICE = price_usd("alpha-chat", input=40, output=30)
MOST = price_usd("alpha-chat", input=200, output=40)
"""More than this request can be counted to."""
MESSAGES_PRICE = price_usd("claudius-chat", input=40, output=30)
MESSAGES_MOST = price_usd("claudius-chat", input=200, output=40)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A system with a provider that says what it is told to; in the end its books are clean."""
    directory: Path = tmp_path_factory.mktemp("odd")
    with provider(directory) as fake, gateway(directory, CONFIG % {"provider": fake.url}) as up:
        yield up
        up.verify()


def ask(account: Account, script: dict[str, Any], *, stream: bool, model: str = "alpha-chat") -> dict[str, Any]:
    """One chat, answered whole; its receipt."""
    text = "x" * 40 + " #script " + json.dumps(TRUE | script)
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": text}]}
    url = f"{account.gateway.base_url}/v1/chat/completions"
    reply = httpx.post(url, json=body, headers=account.headers, timeout=30)
    assert reply.status_code == 200, reply.text
    assert "error" not in reply.text
    return account.receipt(reply.headers["x-request-id"])


def settle(account: Account, receipt: dict[str, Any]) -> None:
    """The balance is what the receipt says, and nothing is held."""
    assert account.settled_credits()["balance"] == 1 - Decimal(receipt["charge"])


@pytest.mark.parametrize("stream", STREAM_OR_EACH, ids=["stream", "whole"])
@pytest.mark.parametrize("kind", ABSURD)
def test_usage_that_can_not_be_true_is_counted(running: Gateway, kind: str, stream: bool) -> None:
    """The charge is our own count of what was delivered: neither nothing nor what the provider invented."""
    account = running.customer(credit_usd="1")
    receipt = ask(account, {"usage": ABSURD[kind]}, stream=stream)
    assert receipt["evidence"] == "counted"
    assert 0 < Decimal(receipt["charge"]) <= MOST
    settle(account, receipt)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_an_explicit_zero_is_a_zero(running: Gateway, stream: bool) -> None:
    """A provider that says it used nothing is believed."""
    account = running.customer(credit_usd="1")
    receipt = ask(account, {"input_tokens": 0, "output_tokens": 0}, stream=stream)
    assert (Decimal(receipt["charge"]), receipt["evidence"]) == (0, "provider")
    settle(account, receipt)


def test_usage_sent_twice_is_charged_once(running: Gateway) -> None:
    """A usage chunk that comes three times is one usage."""
    account = running.customer(credit_usd="1")
    receipt = ask(account, {"usage_times": 3}, stream=True)
    assert Decimal(receipt["charge"]) == PRICE
    settle(account, receipt)


def test_usage_in_every_chunk_is_charged_by_its_last(running: Gateway) -> None:
    """A running count is not a sum of counts."""
    account = running.customer(credit_usd="1")
    receipt = ask(account, {"usage_running": True, "chunks": 10, "gap_ms": 10}, stream=True)
    assert Decimal(receipt["charge"]) == PRICE
    settle(account, receipt)


def test_an_error_body_with_status_200_costs_nothing(running: Gateway) -> None:
    """A success that is none is a failure of the provider."""
    account = running.customer(credit_usd="1")
    text = "#script " + json.dumps({"error_after_chunks": 0})
    body = {"model": "alpha-chat", "stream": True, "messages": [{"role": "user", "content": text}]}
    url = f"{account.gateway.base_url}/v1/chat/completions"
    reply = httpx.post(url, json=body, headers=account.headers, timeout=30)
    assert reply.status_code >= 500
    assert account.settled_credits()["balance"] == 1


def test_usage_after_the_end_mark_loses_nothing(running: Gateway) -> None:
    """What comes after the end was never promised: the answer is charged, by it or by our count."""
    account = running.customer(credit_usd="1")
    receipt = ask(account, {"usage_late": True}, stream=True)
    assert 0 < Decimal(receipt["charge"]) <= MOST
    settle(account, receipt)


@pytest.mark.parametrize("stream", STREAM_OR_EACH, ids=["stream", "whole"])
@pytest.mark.parametrize("kind", ABSURD_MESSAGES)
def test_messages_usage_that_can_not_be_true_is_counted(running: Gateway, kind: str, stream: bool) -> None:
    """The same over Anthropic's protocol, where usage comes in two places."""
    account = running.customer(credit_usd="1")
    receipt = ask(account, {"usage": ABSURD_MESSAGES[kind]}, stream=stream, model="claudius-chat")
    if stream and kind == "nothing in it":
        assert receipt["usage"]["prompt_tokens"] == 40  # the start has told
    assert receipt["evidence"] == "counted"
    assert 0 < Decimal(receipt["charge"]) <= MESSAGES_MOST
    settle(account, receipt)


@pytest.mark.parametrize("script", [{"no_start_usage": True}, {"usage_times": 3}], ids=["late", "three times"])
def test_messages_usage_that_comes_late_or_often_is_charged_once(running: Gateway, script: dict[str, Any]) -> None:
    """The last event's counts are enough, and are no sum."""
    account = running.customer(credit_usd="1")
    receipt = ask(account, script, stream=True, model="claudius-chat")
    assert (Decimal(receipt["charge"]), receipt["evidence"]) == (MESSAGES_PRICE, "provider")
    settle(account, receipt)


@pytest.mark.parametrize("script", [{"no_usage": True}, {"usage_late": True}], ids=["none", "after the end"])
def test_messages_without_usage_are_counted(running: Gateway, script: dict[str, Any]) -> None:
    """Neither nothing nor more than was delivered."""
    account = running.customer(credit_usd="1")
    receipt = ask(account, script, stream=True, model="claudius-chat")
    assert receipt["evidence"] == "counted"
    assert 0 < Decimal(receipt["charge"]) <= MESSAGES_MOST
    settle(account, receipt)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_huge_headers_are_the_providers_failure_and_cost_nothing(running: Gateway, stream: bool) -> None:
    """A head of a mebibyte is not read to its end; one of four KiB is nothing special."""
    account = running.customer(credit_usd="1")
    body = {"model": "alpha-chat", "stream": stream}
    url = f"{account.gateway.base_url}/v1/chat/completions"
    for size, status in ((1 << 20, 502), (4096, 200)):
        text = "x" * 40 + " #script " + json.dumps(TRUE | {"header_bytes": size})
        asked = body | {"messages": [{"role": "user", "content": text}]}
        reply = httpx.post(url, json=asked, headers=account.headers, timeout=30)
        assert reply.status_code == status, reply.text
        assert Decimal(account.receipt(reply.headers["x-request-id"])["charge"]) == (PRICE if status == 200 else 0)
    account.charged(PRICE)
