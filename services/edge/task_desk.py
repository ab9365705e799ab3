"""Hands long jobs over to tasks and reads them back, always in the caller's name; for the routes of every kind of job.

The task is tasks' once it is accepted, whether or not the client waits. A client that leaves does not cancel it.
"""

import contextlib
from collections.abc import AsyncIterator

from fastapi import Request

from chassis.errors import Code, TollbridgeError
from chassis.pipe import PipeClient
from services.edge.catalogue import Catalogue
from services.edge.http.json_http import Caller, context, link, parsed
from services.edge.idempotency.task_claims import UNSURE, ClaimedTask, TaskClaims
from services.edge.limits.estimate import job_tokens
from services.edge.limits.gate import Admitted
from services.edge.limits.limits import Limits
from services.edge.model_names import may_use
from services.edge.paid.max_cost import max_cost_of
from services.edge.routes.task_shapes import WebhookWish
from services.edge.spending.spend_caps import to_wire
from services.edge.task_files import PASSES, READ_TRIES, SLICE_BYTES, TaskFile, opened
from tollbridge.tasks.v1 import tasks_pb2

TIMEOUT_S = 5.0
MAX_WAIT_S = 60.0
MAX_RESULT_BYTES = 64 << 20
SUCCEEDED = tasks_pb2.TASK_STATUS_SUCCEEDED
ENDED = frozenset({SUCCEEDED, tasks_pb2.TASK_STATUS_FAILED, tasks_pb2.TASK_STATUS_CANCELLED})


class TaskDesk:
    """Tasks, as edge asks them."""

    def __init__(self, *, tasks: PipeClient, keys: TaskClaims, catalogue: Catalogue, limits: Limits) -> None:
        self._tasks = tasks
        self._keys = keys
        self._limits = limits
        self._catalogue = catalogue

    @contextlib.asynccontextmanager
    async def ordered(
        self, request: Request, caller: Caller, *, kind: str, model: str, body: bytes, wait_s: float
    ) -> AsyncIterator[tuple[tasks_pb2.Task, ClaimedTask, bool]]:
        """The job of an order, after the wait: new, or (True) the one that its Idempotency-Key stands for.

        A new one counts as a request of its caller unless it was surely refused, and as one that runs until it is
        answered.
        Raises what `hand_over`, TaskClaims and Limits raise, and MODEL_NOT_ALLOWED.
        """
        await check_model(model, caller, self._catalogue)
        async with self._keys.claimed(request, caller, body) as claimed:
            found = await self._found(claimed.task_id, caller) if claimed.begun else None
            admitted = await self._let_in(request, caller, body) if found is None else None
            is_refused = False
            try:
                task = found or await self.hand_over(
                    request, caller, task_id=claimed.task_id, kind=kind, model=model, body=body
                )
            except TollbridgeError as error:
                is_refused = error.code not in UNSURE
                raise
            finally:
                if admitted is not None and not is_refused:
                    admitted.begin()
            task = await self.awaited(task, caller, wait_s=wait_s)
            claimed.succeeded = task.status == SUCCEEDED
            yield task, claimed, found is not None

    async def _let_in(self, request: Request, caller: Caller, body: bytes) -> Admitted | None:
        """Lets a new job in, until its request has been answered; None where nothing is limited."""
        if caller.limits is None:
            return None
        told = context(request).told
        told.tokens = job_tokens(body)
        told.admitted = await self._limits.admit(caller.limits, tokens=told.tokens)
        return told.admitted

    async def hand_over(
        self, request: Request, caller: Caller, *, task_id: str, kind: str, model: str, body: bytes
    ) -> tasks_pb2.Task:
        """Has the job accepted, which holds its credits; `body` is JSON and may name a `webhook_url`.

        Raises INVALID_REQUEST, MODEL_NOT_FOUND, MAX_COST_EXCEEDED, INSUFFICIENT_CREDITS and what else tasks says.
        """
        reply = await self._tasks.call(
            "CreateTask",
            tasks_pb2.CreateTaskRequest(
                task_id=task_id,
                customer_id=caller.customer_id,
                key_id=caller.key_id,
                kind=kind,
                model=model,
                body=body,
                caps=to_wire(caller.caps),
                max_cost_nano_usd=max_cost_of(request.headers.raw),
                webhook_url=parsed(body, WebhookWish).webhook_url or "",
                files_url=link(request, "/files"),
            ),
            tasks_pb2.CreateTaskResponse,
            key=caller.customer_id,
            timeout_s=TIMEOUT_S,
            traceparent=context(request).traceparent,
        )
        return reply.task

    async def awaited(self, task: tasks_pb2.Task, caller: Caller, *, wait_s: float) -> tasks_pb2.Task:
        """The task after the wait. It is accepted, so a wait that fails answers what is known and never an error:
        an error would be retried, and the retry would be a second job with a second charge."""
        if wait_s <= 0:
            return task
        try:
            return await self.get(task.id, caller, wait_s=wait_s)
        except TollbridgeError as error:
            if error.code not in PASSES:
                raise
            return task

    async def follow(self, task_id: str, caller: Caller, wait_s: float, after_version: int) -> tasks_pb2.Task:
        """The task, once it has changed or `wait_s` is over."""
        return await self.get(task_id, caller, wait_s=wait_s, after_version=after_version)

    async def get(self, task_id: str, caller: Caller, *, wait_s: float, after_version: int = 0) -> tasks_pb2.Task:
        """The task, once it has ended, is beyond a version (0: any), or `wait_s` is over."""
        reply = await self._tasks.call(
            "GetTask",
            tasks_pb2.GetTaskRequest(
                task_id=task_id, customer_id=caller.customer_id, wait_s=wait_s, after_version=after_version
            ),
            tasks_pb2.GetTaskResponse,
            timeout_s=wait_s + TIMEOUT_S,
        )
        return reply.task

    async def get_with_order(self, task_id: str, caller: Caller) -> tuple[tasks_pb2.Task, bytes]:
        """The task, and what was ordered, as JSON."""
        reply = await self._tasks.call(
            "GetTask",
            tasks_pb2.GetTaskRequest(task_id=task_id, customer_id=caller.customer_id, with_order=True),
            tasks_pb2.GetTaskResponse,
            timeout_s=TIMEOUT_S,
        )
        return reply.task, reply.order

    async def list_with_orders(
        self, caller: Caller, *, kind: str, limit: int, after: str, oldest_first: bool
    ) -> tuple[list[tuple[tasks_pb2.Task, bytes]], bool]:
        """A page of the caller's tasks of a kind, without deleted ones, each with its order; are there more?"""
        reply = await self._tasks.call(
            "ListTasks",
            tasks_pb2.ListTasksRequest(
                customer_id=caller.customer_id,
                kind=kind,
                limit=limit,
                after=after,
                oldest_first=oldest_first,
                with_orders=True,
                without_deleted=True,
            ),
            tasks_pb2.ListTasksResponse,
            timeout_s=TIMEOUT_S,
        )
        return list(zip(reply.tasks, reply.orders, strict=True)), reply.has_more

    async def cancel(self, task_id: str, caller: Caller) -> tasks_pb2.Task:
        """The task, ended if it had not been."""
        reply = await self._tasks.call(
            "CancelTask",
            tasks_pb2.CancelTaskRequest(task_id=task_id, customer_id=caller.customer_id),
            tasks_pb2.CancelTaskResponse,
            timeout_s=TIMEOUT_S,
        )
        return reply.task

    async def delete(self, caller: Caller, *, task_id: str = "", file_id: str = "") -> None:
        """Removes a task's files, or one file. Raises NOT_FOUND."""
        await self._tasks.call(
            "DeleteResults",
            tasks_pb2.DeleteResultsRequest(customer_id=caller.customer_id, task_id=task_id, file_id=file_id),
            tasks_pb2.DeleteResultsResponse,
            timeout_s=TIMEOUT_S,
        )

    async def whole(self, file_id: str, caller: Caller) -> bytes:
        """A file's bytes at once. Raises NOT_FOUND, INVALID_REQUEST for one that is too large for that."""
        file = await self.file(file_id, customer_id=caller.customer_id, tries=READ_TRIES)
        if file.size > MAX_RESULT_BYTES:
            raise TollbridgeError(Code.INVALID_REQUEST, "The result is too large for b64_json; ask for url.")
        return b"".join([piece async for piece in file.pieces(0, file.size)])

    async def file(
        self,
        file_id: str,
        *,
        customer_id: str = "",
        expires_s: int = 0,
        signature: str = "",
        offset: int = 0,
        length: int = SLICE_BYTES,
        tries: int = 1,
    ) -> TaskFile:
        """A file, its customer's or by a link, open from an offset on (below 0: from so many bytes before its end).

        Raises NOT_FOUND, after some tries what passes by itself.
        """
        if not customer_id and not signature:
            raise ValueError("a file is read in somebody's name, or by a link")
        request = tasks_pb2.GetResultRequest(
            file_id=file_id,
            customer_id=customer_id,
            link_expires_s=expires_s,
            link_signature=signature,
            offset=offset,
            length=length,
        )
        return await opened(self._tasks, request, tries=tries)

    async def _found(self, task_id: str, caller: Caller) -> tasks_pb2.Task | None:
        try:
            return await self.get(task_id, caller, wait_s=0)
        except TollbridgeError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            return None


async def check_model(name: str, caller: Caller, catalogue: Catalogue) -> None:
    """Raises MODEL_NOT_ALLOWED for a model, by any of its names, that the caller's key doesn't list; UNAVAILABLE."""
    if not caller.models:
        return
    (model,) = await catalogue.ids_of((name,))
    if not may_use(caller.models, model):
        message = f"This key may not use the model {name[:200]!r}."
        raise TollbridgeError(Code.MODEL_NOT_ALLOWED, message, details={"param": "model"})


def preferred_wait_s(request: Request, *, otherwise_s: float) -> float:
    """How long the client waits, by its `Prefer` header."""
    prefer = request.headers.get("prefer", "")
    for part in prefer.lower().split(","):
        name, _, value = part.strip().partition("=")
        if name == "respond-async":
            return 0.0
        if name == "wait" and value.isascii() and value.isdigit():
            return min(MAX_WAIT_S, float(value[:4]))
    return otherwise_s


def file_link(request: Request, result: tasks_pb2.Result) -> str:
    """A link to a file that works by itself, while it is good; its owner's key opens it for as long as it is kept."""
    path = f"/files/{result.file_id}/content"
    if result.link_signature:
        path += f"?expires={result.link_expires_s}&signature={result.link_signature}"
    return link(request, path)


def failure(task: tasks_pb2.Task) -> TollbridgeError:
    """Why a task that has ended has nothing to show."""
    known = {code.value for code in Code}
    code = Code(task.error_code) if task.error_code in known else Code.PROVIDER_ERROR
    word = "cancelled" if task.status == tasks_pb2.TASK_STATUS_CANCELLED else "failed"
    return TollbridgeError(code, task.error_message or f"The task was {word}.", details={"task_id": task.id})
