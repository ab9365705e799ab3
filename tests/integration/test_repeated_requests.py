"""`Idempotency-Key` on a running system: what is sent again is not run again."""

import concurrent.futures
import json
import re
import uuid
from decimal import Decimal

import httpx
import pytest

from tests.integration.offer import price_usd
from tests.integration.running import Account, Gateway

SCRIPT = {"chunks": 10, "gap_ms": 20, "input_tokens": 40, "output_tokens": 30}
PRICE = price_usd("alpha-chat", input=40, output=30)


def chat(*, stream: bool = False, **script: object) -> dict:
    text = "x" * 40 + " #script " + json.dumps({**SCRIPT, **script})
    return {"model": "alpha-chat", "stream": stream, "messages": [{"role": "user", "content": text}]}


def post(account: Account, body: dict, key: str, path: str = "/chat/completions") -> httpx.Response:
    headers = {**account.headers, "idempotency-key": key}
    return httpx.post(f"{account.gateway.base_url}/v1{path}", headers=headers, json=body, timeout=60)


def without_link_ends(answer: str) -> str:
    """Links of two quarter hours end at two times."""
    return re.sub(r"expires=\d+&signature=\w+", "", answer)


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_sent_twice_is_run_and_charged_once(system: Gateway, stream: bool):
    """The second answer is the first one's bytes, and says so."""
    account, key, body = system.customer(credit_usd="1"), str(uuid.uuid4()), chat(stream=stream)
    first, again = post(account, body, key), post(account, body, key)
    assert (first.status_code, again.status_code) == (200, 200), again.text
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["x-request-id"] == first.headers["x-request-id"]
    assert again.headers["content-type"] == first.headers["content-type"]
    assert post(account, chat(stream=not stream), key).status_code == 422
    left = account.settled_credits()
    assert (left["total_usage"], left["balance"]) == (PRICE, 1 - PRICE)


def test_of_ten_at_once_one_runs(system: Gateway):
    """The others are told to wait, and one charge is made; two customers' equal keys are two requests."""
    account, other, key = system.customer(credit_usd="1"), system.customer(credit_usd="1"), str(uuid.uuid4())
    body = chat(gap_ms=200)
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        replies = list(pool.map(lambda _: post(account, body, key), range(10)))
    codes = sorted(reply.status_code for reply in replies)
    assert codes[0] == 200
    assert set(codes) <= {200, 409}
    assert all("retry-after" in reply.headers for reply in replies if reply.status_code == 409)
    assert len({reply.headers["x-request-id"] for reply in replies if reply.status_code == 200}) == 1
    assert post(other, body, key).status_code == 200
    for each in (account, other):
        assert each.settled_credits()["total_usage"] == PRICE


def test_a_repeated_image_is_one_task(system: Gateway):
    """The same task answers again; another prompt under the key is 422."""
    account, key = system.customer(credit_usd="1"), str(uuid.uuid4())
    body = {"model": "sandbox-image", "prompt": "a boat", "n": 1}
    first, again = (post(account, body, key, "/images/generations") for _ in range(2))
    assert (first.status_code, again.status_code) == (200, 200), again.text
    assert without_link_ends(again.text) == without_link_ends(first.text)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["x-request-id"] == first.headers["x-request-id"]
    assert post(account, {**body, "prompt": "a ship"}, key, "/images/generations").status_code == 422
    assert len(account.get("/tasks")["data"]) == 1
    assert account.settled_credits()["total_usage"] == Decimal("0.02")


def test_a_repetition_of_what_still_runs_shows_it_and_then_its_result(system: Gateway):
    """Who didn't wait is told of the same task again; once it is done, its images are the answer."""
    account, key = system.customer(credit_usd="1"), str(uuid.uuid4())
    body = {"model": "sandbox-image", "prompt": "a boat", "n": 1}
    headers = {**account.headers, "idempotency-key": key, "prefer": "respond-async"}
    url = f"{system.base_url}/v1/images/generations"
    first = httpx.post(url, headers=headers, json=body, timeout=60)
    assert first.status_code == 200
    again = post(account, body, key, "/images/generations")
    assert again.json()["task_id"] == first.json()["task_id"]
    assert again.json()["data"]
    assert account.settled_credits()["total_usage"] == Decimal("0.02")
