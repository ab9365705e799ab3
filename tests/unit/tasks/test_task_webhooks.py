"""A task's webhook: one for its end, signed, to public addresses only, tried until it is taken."""

import asyncio
import ipaddress
import json
import re
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from chassis.errors import Code, TollbridgeError
from services.tasks.webhooks.webhook_secrets import SecretName, WebhookSecrets
from tests.unit.tasks.stage import TasksApi
from tollbridge.tasks.v1 import tasks_pb2 as pb
from upstream import webhook_deliveries
from upstream.webhooks import signature


class Receiver:
    """A customer's server; answers with `status` and keeps what it got."""

    def __init__(self) -> None:
        self.status = 200
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        return web.Response(status=self.status)


@pytest.fixture
async def receiver(api: TasksApi) -> AsyncIterator[Receiver]:
    api.process.networks.append(ipaddress.ip_network("127.0.0.0/8"))
    made = Receiver()
    app = web.Application()
    app.router.add_post("/hook", made.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    made.url = f"http://127.0.0.1:{port}/hook"
    yield made
    await runner.cleanup()


async def delivered(api: TasksApi) -> None:
    """All that is due is tried once."""
    async with asyncio.TaskGroup() as tries:
        await api.process.deliveries.look(tries)


async def secret_of(api: TasksApi, *, renew: bool = False) -> str:
    request = pb.GetWebhookSecretRequest(customer_id=api.customer_id, renew=renew)
    return (await api.call("GetWebhookSecret", request, pb.GetWebhookSecretResponse)).secret


async def test_the_end_of_a_task_is_told_signed_and_with_links(api: TasksApi, receiver: Receiver):
    """In the words of `GET /tasks/{id}`, verifiable with the customer's secret, once."""
    task = await api.create(webhook_url=receiver.url, files_url="https://host/v1/files")
    await delivered(api)
    assert receiver.got == []
    assert await api.process.run() is None
    await delivered(api)
    await delivered(api)
    ((headers, body),) = receiver.got
    told = json.loads(body)
    done = await api.get(task.id)
    assert (told["type"], told["data"]["id"], told["data"]["status"]) == ("task.succeeded", task.id, "succeeded")
    (file,) = told["data"]["result"]["data"]
    url, _, proof = file["url"].partition("?")
    assert url == f"https://host/v1/files/{done.results[0].file_id}/content"
    expires_s, mac = re.fullmatch(r"expires=(\d+)&signature=(\w+)", proof).groups()
    link = {"link_expires_s": int(expires_s), "link_signature": mac}
    assert (await api.file(done.results[0].file_id, customer_id="", **link))[0] == "image/png"
    signed = signature(
        await secret_of(api),
        message_id=headers["webhook-id"],
        timestamp_s=int(headers["webhook-timestamp"]),
        body=body,
    )
    assert headers["webhook-signature"] == signed


async def test_a_webhook_that_is_not_taken_is_tried_again_with_one_id(
    api: TasksApi, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
):
    """After a pause; a receiver that says 410 is left alone."""
    monkeypatch.setattr(webhook_deliveries, "PAUSES_S", (0, 0))
    receiver.status = 500
    await api.create(webhook_url=receiver.url)
    await api.process.run()
    await delivered(api)
    receiver.status = 410
    await delivered(api)
    await delivered(api)
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert len(receiver.got) == 2


async def test_a_cancelled_and_a_failed_task_are_told_too(api: TasksApi, receiver: Receiver):
    """Whoever waits hears of every end, one webhook at a time."""
    cancelled = await api.create(webhook_url=receiver.url)
    await api.call("CancelTask", pb.CancelTaskRequest(task_id=cancelled.id), pb.CancelTaskResponse)
    await api.create(webhook_url=receiver.url, prompt='x\n#sandbox {"status": 400, "message": "no"}')
    await api.process.run()
    await delivered(api)
    await delivered(api)
    types = [json.loads(body)["type"] for _, body in receiver.got]
    assert types == ["task.cancelled", "task.failed"]


@pytest.mark.parametrize(
    "url",
    ["http://example.com/", "https://127.0.0.1/", "https://[::1]/", "https://169.254.169.254/x", "ftp://a.b/", "x"],
)
async def test_a_webhook_that_leads_into_our_network_is_refused(api: TasksApi, url: str):
    """Before anything is held."""
    with pytest.raises(TollbridgeError) as caught:
        await api.create(webhook_url=url)
    assert (caught.value.code, caught.value.details["param"]) == (Code.INVALID_REQUEST, "webhook_url")
    assert api.process.billing.holds == {}


async def test_a_customer_may_have_another_secret(api: TasksApi):
    """The same until then; nobody else's."""
    first = await secret_of(api)
    assert await secret_of(api) == first
    second = await secret_of(api, renew=True)
    assert second != first
    assert await secret_of(api) == second
    secrets = WebhookSecrets({1: b"k" * 32})
    assert secrets.of("somebody else", SecretName(key_version=1, number=1)) != first


async def test_newer_settlements_are_asked_about_while_older_ones_are_stuck(
    api: TasksApi, monkeypatch: pytest.MonkeyPatch
):
    """Billing is asked about each in turn, whatever it doesn't have."""
    monkeypatch.setattr("services.tasks.outbox.BATCH", 2)
    tasks = [await api.create() for _ in range(5)]
    for _ in tasks:
        await api.process.run()
    await api.process.publish()
    newest = tasks[-1].id
    api.process.billing.known.add((newest, 1))
    for _ in range(3):
        await api.process.outbox.confirm_once()
    async with api.process.pool.connection() as conn:
        left = await (await conn.execute("SELECT task_id FROM tasks.outbox WHERE kind = 'usage'")).fetchall()
    assert newest not in {str(task_id) for (task_id,) in left}
    assert len(left) == 4
