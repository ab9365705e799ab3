"""An image, from the call to the file: waited for or not, charged exactly by what was made, and otherwise nothing."""

import json
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.integration.running import Account, Gateway, wait_until
from tests.patience import promised

PER_IMAGE_USD = Decimal("0.02")


@pytest.fixture
def account(system: Gateway) -> Account:
    """A customer with money for fifty images."""
    return system.customer(credit_usd="1")


def order(account: Account, *, prompt: str = "a bridge", n: int = 1, **headers: str) -> httpx.Response:
    """Asks for images."""
    return httpx.post(
        f"{account.gateway.base_url}/v1/images/generations",
        json={"model": "sandbox-image", "prompt": prompt, "n": n},
        headers=account.headers | headers,
        timeout=70,
    )


def task(account: Account, task_id: str) -> Any:
    """A task as its customer sees it."""
    return account.get(f"/tasks/{task_id}")


def test_images_are_answered_in_openais_shape_and_charged_by_the_piece(account: Account) -> None:
    """Each link gives a picture to its owner and to nobody else; the receipt has the same charge."""
    reply = order(account, n=3)
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    assert len(answer["data"]) == 3
    for link in (item["url"] for item in answer["data"]):
        mine = httpx.get(link, headers=account.headers)
        assert mine.content.startswith(b"\x89PNG")
        assert mine.headers["content-type"] == "image/png"
    stranger = account.gateway.customer(credit_usd="1")
    assert httpx.get(answer["data"][0]["url"], headers=stranger.headers).status_code == 404
    receipt = account.receipt(answer["task_id"])
    assert Decimal(receipt["charge"]) == 3 * PER_IMAGE_USD
    assert account.settled_credits()["balance"] == 1 - 3 * PER_IMAGE_USD


def test_an_asynchronous_order_is_followed_to_its_end(account: Account) -> None:
    """Its money is held meanwhile."""
    prompt = 'x\n#sandbox {"first_byte_ms": 1500}'
    accepted = order(account, prompt=prompt, n=2, prefer="respond-async").json()
    assert (accepted["status"], accepted["data"]) == ("pending", [])
    assert account.credits()["held"] == 2 * PER_IMAGE_USD
    done = wait_until(
        lambda: (found := task(account, accepted["task_id"]))["status"] == "succeeded" and found,
        timeout_s=20,
        what="the task succeeds",
    )
    assert Decimal(done["cost"]) == 2 * PER_IMAGE_USD
    assert account.settled_credits()["balance"] == 1 - 2 * PER_IMAGE_USD


def events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """The ids and tasks of a stream of events."""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "id":
            number = value
        elif name == "data":
            yield number, json.loads(value)


def test_a_tasks_events_go_to_its_end_and_resume_where_they_were_left(account: Account) -> None:
    """Each once, with the whole task; whoever has seen the end hears nothing more."""
    accepted = order(account, prompt='x\n#sandbox {"first_byte_ms": 30000}', prefer="respond-async").json()
    url = f"{account.gateway.base_url}/v1/tasks/{accepted['task_id']}"
    with httpx.stream("GET", f"{url}/events", headers=account.headers, timeout=40) as stream:
        following = events(stream.iter_lines())
        first, task_then = next(following)
        assert task_then["status"] in ("pending", "running")
        httpx.post(f"{url}/cancel", headers=account.headers, timeout=20)
        *_, (last, end) = following
    assert (int(last) > int(first), end["status"]) == (True, "cancelled")
    resumed = httpx.get(f"{url}/events", headers=account.headers | {"last-event-id": first}, timeout=20)
    assert list(events(iter(resumed.text.split("\n")))) == [(last, end)]
    over = httpx.get(f"{url}/events", headers=account.headers | {"last-event-id": last}, timeout=20)
    assert (over.status_code, over.text) == (204, "")


def test_a_cancelled_task_costs_nothing(account: Account) -> None:
    """Also when a worker is at it."""
    prompt = 'x\n#sandbox {"first_byte_ms": 30000}'
    accepted = order(account, prompt=prompt, prefer="respond-async").json()
    url = f"{account.gateway.base_url}/v1/tasks/{accepted['task_id']}/cancel"
    assert httpx.post(url, headers=account.headers, timeout=10).json()["status"] == "cancelled"
    assert account.settled_credits()["balance"] == 1
    assert Decimal(account.receipt(accepted["task_id"])["charge"]) == 0


def test_an_order_with_a_picture_of_many_mebibytes_is_run(account: Account) -> None:
    """As contract says, JSON of up to 20 MiB passes through edge, tasks and the database."""
    reply = httpx.post(
        f"{account.gateway.base_url}/v1/images/generations",
        json={"model": "sandbox-image", "prompt": "like this one", "image": "A" * (19 << 20)},
        headers=account.headers,
        timeout=70,
    )
    assert reply.status_code == 200, reply.text
    assert len(reply.json()["data"]) == 1


def test_a_webhook_url_is_checked_and_its_secret_is_the_customers(account: Account) -> None:
    """One that leads into our network is refused by name; the secret stays until another is asked for."""
    reply = httpx.post(
        f"{account.gateway.base_url}/v1/images/generations",
        json={"model": "sandbox-image", "prompt": "x", "webhook_url": "https://127.0.0.1/hook"},
        headers=account.headers,
        timeout=70,
    )
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "webhook_url")
    url = f"{account.gateway.base_url}/v1/tasks/webhook_secret"
    first = httpx.get(url, headers=account.headers, timeout=20).json()["secret"]
    assert first.startswith("whsec_")
    second = httpx.post(url, headers=account.headers, timeout=20).json()["secret"]
    assert first != second == account.get("/tasks/webhook_secret")["secret"]


def test_to_a_stranger_a_task_does_not_exist(account: Account) -> None:
    """It can be neither read, nor cancelled, nor found in a list; its owner sees it run on."""
    accepted = order(account, prompt='x\n#sandbox {"first_byte_ms": 2000}', prefer="respond-async").json()
    stranger = account.gateway.customer(credit_usd="1")
    url = f"{account.gateway.base_url}/v1/tasks/{accepted['task_id']}"
    for reply in (
        httpx.get(url, headers=stranger.headers, timeout=10),
        httpx.post(f"{url}/cancel", headers=stranger.headers, timeout=10),
        httpx.get(f"{url}/events", headers=stranger.headers, timeout=10),
    ):
        assert reply.status_code == 404
        assert reply.json()["error"]["code"] == "not_found"
    assert stranger.get("/tasks")["data"] == []
    assert [each["id"] for each in account.get("/tasks")["data"]] == [accepted["task_id"]]
    assert task(account, accepted["task_id"])["status"] in ("pending", "running", "succeeded")


def test_what_the_provider_rejects_is_the_clients_to_know_and_free(account: Account) -> None:
    """A 400 with the provider's words."""
    reply = order(account, prompt='x\n#sandbox {"status": 400, "message": "not that"}')
    assert reply.status_code == 400, reply.text
    assert "not that" in reply.json()["error"]["message"]
    assert account.settled_credits()["balance"] == 1


def test_without_enough_money_nothing_is_accepted(system: Gateway) -> None:
    """402, no task, nothing held."""
    poor = system.customer(credit_usd="0.03")
    assert order(poor, n=2).status_code == 402
    assert poor.get("/tasks")["data"] == []
    assert poor.credits() == {
        "balance": Decimal("0.03"),
        "held": Decimal(0),
        "available": Decimal("0.03"),
        "total_usage": Decimal(0),
    }


def test_a_revoked_key_is_refused_within_a_second(account: Account) -> None:
    """A key that was used a moment ago, and whose answer is still kept here and there."""
    made = account.gateway.admin("POST", "/admin/keys", customer_id=account.customer_id, name="short-lived")
    headers = {"authorization": f"Bearer {made['key']}"}
    url = f"{account.gateway.base_url}/v1/credits"
    assert httpx.get(url, headers=headers).status_code == 200
    account.gateway.admin("DELETE", f"/admin/keys/{made['id']}")
    revoked_at_s = time.monotonic()
    wait_until(lambda: httpx.get(url, headers=headers).status_code == 401, timeout_s=20, what="the key is refused")
    assert time.monotonic() - revoked_at_s < promised(1)
