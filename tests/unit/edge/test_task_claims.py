"""What becomes of the key of a long job, by what became of the job."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import cast
from uuid import uuid4

import httpx
import pytest

from chassis.errors import Code, TollbridgeError
from chassis.pipe import PipeClient
from chassis.telemetry import Tracer
from services.edge.app import EdgeApp, new_fastapi
from services.edge.catalogue import Catalogue
from services.edge.config import without_file
from services.edge.http.json_http import Caller
from services.edge.idempotency.claims import Claims
from services.edge.limits.limits import Limits
from services.edge.routes import tasks
from tests.unit.edge.claim_desk import ClaimDesk
from tollbridge.tasks.v1 import tasks_pb2 as pb

BODY = {"model": "m", "prompt": "a bridge", "response_format": "b64_json"}


class Tasks:
    """Jobs that end at once, as they are told to; `fails` breaks the reading of what they made."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.status = pb.TASK_STATUS_SUCCEEDED
        self.fails: TollbridgeError | None = None

    async def call(self, method: str, request, _kind, **_options):
        if method == "CreateTask":
            self.made.append(request.task_id)
        task = pb.Task(id=request.task_id, status=self.status, results=[pb.Result(file_id=str(uuid4()))])
        return SimpleNamespace(task=task)

    async def stream(self, *_, **__) -> AsyncIterator[pb.GetResultResponse]:
        if self.fails is not None:
            raise self.fails
        yield pb.GetResultResponse(content_type="image/png", data=b"png")


class ClaimPipe:
    """Billing's claims without a network."""

    def __init__(self) -> None:
        self.desk = ClaimDesk()

    async def call(self, method: str, request, _kind, **_options):
        return await self.desk.methods[method](request, None)


class Desk:
    """Edge's image route over both."""

    def __init__(self) -> None:
        self.tasks, self.pipe = Tasks(), ClaimPipe()
        public = new_fastapi()
        claims = Claims(pipe=cast("PipeClient", self.pipe), spender=uuid4())
        public.include_router(
            tasks.routes(
                tasks=cast("PipeClient", self.tasks),
                claims=claims,
                limits=cast("Limits", None),
                catalogue=Catalogue(router=cast("PipeClient", self.tasks)),
                identify=self._identify,
            )
        )
        tracer = Tracer(service="edge", replica="0", otlp_endpoint="")
        self._app = EdgeApp(config=without_file(), public=public, own=new_fastapi(), hot={}, tracer=tracer)

    async def _identify(self, _request) -> Caller:
        return Caller(customer_id="c", key_id="k", models=frozenset())

    async def post(self) -> httpx.Response:
        transport = httpx.ASGITransport(app=self._app)  # type: ignore[arg-type]  # a bare ASGI callable
        async with httpx.AsyncClient(transport=transport, base_url="http://edge") as client:
            return await client.post("/v1/images/generations", json=BODY, headers={"idempotency-key": "order-7"})


@pytest.mark.parametrize("code", [Code.NOT_FOUND, Code.UNAVAILABLE])
async def test_a_job_that_was_paid_for_is_the_keys_although_its_images_can_not_be_read(code: Code):
    """A freed key would have the next call make, and charge, a second one."""
    desk = Desk()
    desk.tasks.fails = TollbridgeError(code, "There is no such file.")
    assert (await desk.post()).status_code >= 400
    desk.tasks.fails = None
    again = await desk.post()
    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    assert len(desk.tasks.made) == 1


async def test_a_job_that_failed_frees_its_key():
    """It cost nothing, and the next call makes another."""
    desk = Desk()
    desk.tasks.status = pb.TASK_STATUS_FAILED
    assert (await desk.post()).status_code >= 400
    desk.tasks.status = pb.TASK_STATUS_SUCCEEDED
    assert (await desk.post()).status_code == 200
    assert len(set(desk.tasks.made)) == 2


async def test_a_job_that_goes_on_is_taken_up_by_the_next_call():
    """Whoever comes again is shown the same job, until it has succeeded."""
    desk = Desk()
    desk.tasks.status = pb.TASK_STATUS_RUNNING
    assert (await desk.post()).json()["status"] == "pending"
    desk.tasks.status = pb.TASK_STATUS_SUCCEEDED
    assert (await desk.post()).headers["idempotency-replayed"] == "true"
    assert len(desk.tasks.made) == 1
