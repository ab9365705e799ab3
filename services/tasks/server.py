"""Tasks' gRPC face: convert, one call, convert back. Each method names its callers."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from chassis import db
from chassis.config_state import ConfigState, config_state_handler
from chassis.errors import Code, TollbridgeError
from chassis.ids import canonical
from chassis.rpc import CallContext, Handler, RpcService, StreamHandler
from chassis.telemetry import checked_traceparent
from services.tasks import store
from services.tasks.acceptance import Acceptance, Wish
from services.tasks.ends import Ends
from services.tasks.events import to_wire
from services.tasks.files.file_desk import FileDesk
from services.tasks.jobs import Job
from services.tasks.making import kinds
from services.tasks.news import News
from services.tasks.webhooks.webhooks import Webhooks
from tollbridge.tasks.v1 import tasks_pb2 as pb

CALLERS = frozenset({"edge", "teams"})
OPERATORS = frozenset({"edge", "cli"})
MAX_WAIT_S = 60.0
LOOK_S = 1.0
"""A waiting call looks so often when it hears nothing."""
ANSWER_MARGIN_S = 0.5
"""A waiting call answers this long before its caller gives up."""
PAGE = 50
MAX_PAGE = 200
MAX_FILES_URL = 1000


class TasksServer:
    """The handlers."""

    def __init__(
        self,
        *,
        pool: db.Pool,
        acceptance: Acceptance,
        ends: Ends,
        files: FileDesk,
        news: News,
        webhooks: Webhooks,
        config_state: Callable[[], ConfigState],
    ) -> None:
        self._pool = pool
        self._acceptance = acceptance
        self._ends = ends
        self._files = files
        self._news = news
        self._webhooks = webhooks
        self._config_state = config_state

    def service(self) -> RpcService:
        """What the RPC server is given."""
        return RpcService(
            descriptor=pb.DESCRIPTOR.services_by_name["TasksService"],
            handlers={
                "CreateTask": Handler(run=self.create_task, callers=CALLERS),
                "GetTask": Handler(run=self.get_task, callers=CALLERS),
                "ListTasks": Handler(run=self.list_tasks, callers=CALLERS),
                "CancelTask": Handler(run=self.cancel_task, callers=CALLERS),
                "GetWebhookSecret": Handler(run=self.get_webhook_secret, callers=CALLERS),
                "GetResult": StreamHandler(run=self.get_result, callers=CALLERS),
                "DeleteResults": Handler(run=self.delete_results, callers=CALLERS),
                "GetConfigState": config_state_handler(pb.GetConfigStateResponse, self._config_state, OPERATORS),
            },
        )

    async def create_task(self, request: pb.CreateTaskRequest, context: CallContext) -> pb.CreateTaskResponse:
        wish = Wish(
            task_id=canonical(request.task_id, "task_id"),
            customer_id=canonical(request.customer_id, "customer_id"),
            key_id=canonical(request.key_id, "key_id") if request.key_id else "",
            kind=request.kind,
            model=request.model,
            body=request.body,
            traceparent=checked_traceparent(context.traceparent or request.traceparent),
            fingerprint=_fingerprint(request),
            caps=tuple(request.caps),
            max_cost_nano_usd=request.max_cost_nano_usd if request.HasField("max_cost_nano_usd") else None,
            webhook_url=request.webhook_url,
            files_url=request.files_url[:MAX_FILES_URL],
        )
        job = await self._acceptance.accept(wish)
        return pb.CreateTaskResponse(task=await self._files.with_links(to_wire(job)))

    async def get_task(self, request: pb.GetTaskRequest, context: CallContext) -> pb.GetTaskResponse:
        task_id = canonical(request.task_id, "task_id")
        job = await self._owned(task_id, request.customer_id)
        wait_s = min(request.wait_s, MAX_WAIT_S, context.timeout_s - ANSWER_MARGIN_S)
        after = request.after_version
        if wait_s > 0 and not job.status.ended and not job.version > after > 0:
            await self._wait(task_id, wait_s, after=after)
            job = await self._owned(task_id, request.customer_id)
        orders = await self._shown_orders([job]) if request.with_order else [b""]
        return pb.GetTaskResponse(task=await self._files.with_links(to_wire(job)), order=orders[0])

    async def list_tasks(self, request: pb.ListTasksRequest, _: CallContext) -> pb.ListTasksResponse:
        customer_id = canonical(request.customer_id, "customer_id")
        after = canonical(request.after, "after") if request.after else None
        if not 0 <= request.limit <= MAX_PAGE:
            raise _invalid("limit", f"is at most {MAX_PAGE}")
        size = request.limit or PAGE
        async with db.transaction(self._pool) as conn:
            jobs = await store.jobs_of(
                conn,
                customer_id,
                after=after,
                limit=size + 1,
                kind=request.kind,
                oldest_first=request.oldest_first,
                without_deleted=request.without_deleted,
            )
        tasks = [await self._files.with_links(to_wire(job)) for job in jobs[:size]]
        orders = await self._shown_orders(jobs[:size]) if request.with_orders else []
        return pb.ListTasksResponse(tasks=tasks, has_more=len(jobs) > size, orders=orders)

    async def cancel_task(self, request: pb.CancelTaskRequest, _: CallContext) -> pb.CancelTaskResponse:
        task_id = canonical(request.task_id, "task_id")
        await self._owned(task_id, request.customer_id)
        await self._ends.cancel(task_id)
        job = await self._owned(task_id, request.customer_id)
        return pb.CancelTaskResponse(task=await self._files.with_links(to_wire(job)))

    async def get_webhook_secret(
        self, request: pb.GetWebhookSecretRequest, _: CallContext
    ) -> pb.GetWebhookSecretResponse:
        customer_id = canonical(request.customer_id, "customer_id")
        return pb.GetWebhookSecretResponse(secret=await self._webhooks.secret(customer_id, renew=request.renew))

    async def get_result(self, request: pb.GetResultRequest, _: CallContext) -> AsyncIterator[pb.GetResultResponse]:
        file_id = canonical(request.file_id, "file_id")
        customer_id = request.customer_id
        if request.link_signature:
            expires_s, signature = request.link_expires_s, request.link_signature
            await self._files.check_link(file_id, expires_s=expires_s, signature=signature)
            customer_id = ""
        file = await self._files.find(file_id, customer_id=customer_id)
        start = request.offset if request.offset >= 0 else max(0, file.size_bytes + request.offset)
        piece = pb.GetResultResponse(content_type=file.content_type, size=file.size_bytes)
        reading = self._files.read(file, start=start, length=request.length or file.size_bytes)
        async with contextlib.aclosing(reading):
            piece.data = await anext(reading, b"")
            yield piece
            async for data in reading:
                yield pb.GetResultResponse(data=data)

    async def delete_results(self, request: pb.DeleteResultsRequest, _: CallContext) -> pb.DeleteResultsResponse:
        if bool(request.file_id) == bool(request.task_id):
            raise _invalid("file_id", "goes without task_id, and one of them is needed")
        if request.file_id:
            await self._files.delete(canonical(request.file_id, "file_id"), customer_id=request.customer_id)
        else:
            task_id, customer_id = canonical(request.task_id, "task_id"), request.customer_id
            await self._owned(task_id, customer_id)
            await self._ends.cancel(task_id)  # it would be charged when it is made, and its files be nobody's to see
            await self._files.delete_all(await self._owned(task_id, customer_id))
        return pb.DeleteResultsResponse()

    async def _shown_orders(self, found: Sequence[Job]) -> list[bytes]:
        """What was ordered, as its customer is shown it."""
        async with db.transaction(self._pool) as conn:
            kept = await store.shown(conn, [job.order.id for job in found])
        return [kept.get(job.order.id) or await self._order_of_before(job) for job in found]

    async def _order_of_before(self, job: Job) -> bytes:
        """The same out of the body, which may be large: of a job from before it was kept beside it."""
        async with db.transaction(self._pool) as conn:
            body = await store.body(conn, job.order.id)
        kind = kinds.kind_of(job.order.kind)
        return msgspec.json.encode(kind.shown(kind.parse(body)))

    async def _owned(self, task_id: str, customer_id: str) -> Job:
        async with db.transaction(self._pool) as conn:
            job = await store.job(conn, task_id)
        if job is None or customer_id not in ("", job.order.customer_id):
            raise TollbridgeError(Code.NOT_FOUND, "There is no such task.")
        return job

    async def _wait(self, task_id: str, wait_s: float, *, after: int) -> None:
        """Returns when the job has ended, is beyond version `after` (0: never), or the time is over."""
        try:
            async with asyncio.timeout(wait_s):
                with self._news.of(task_id) as news:
                    while True:
                        news.clear()
                        async with db.transaction(self._pool) as conn:
                            version, has_ended = await store.version(conn, task_id)
                        if has_ended or version > after > 0:
                            return
                        await _either(news, LOOK_S)
        except TimeoutError:
            return


async def _either(event: asyncio.Event, within_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await event.wait()


def _fingerprint(request: pb.CreateTaskRequest) -> bytes:
    """A digest of what was asked; the trace and the caps are no part of it: a repetition has its own."""
    parts = (request.customer_id, request.key_id, request.kind, request.model)
    digest = hashlib.sha256("\0".join(parts).encode())
    digest.update(b"\0" + request.body)
    if request.webhook_url:
        digest.update(b"\0" + request.webhook_url.encode())
    return digest.digest()


def _invalid(param: str, what: str) -> TollbridgeError:
    return TollbridgeError(Code.INVALID_REQUEST, f"{param} {what}.", details={"param": param})
