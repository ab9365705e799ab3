"""The ends of a job. Each is one transaction: the job's last state, its files, its settlement, its news
and its webhook.

So there is no job that ended without a settlement in the outbox, and no settlement of a job that goes on.
"""

import time
from collections.abc import Callable

from chassis import db
from chassis.errors import Code
from services.tasks import events, outbox, settlement, store
from services.tasks.config import ResultsSection
from services.tasks.files import file_store
from services.tasks.jobs import Job, Move, ResultFile, Status
from services.tasks.settlement import Made
from services.tasks.webhooks import webhook_body, webhook_store
from tollbridge.usage.v1 import usage_pb2

CANCELLED_STATUS = 499
FAILED_STATUS = 502


class Ends:
    """Ends jobs and says so."""

    def __init__(
        self,
        *,
        pool: db.Pool,
        on_outbox: Callable[[], None],
        keep_s: Callable[[], float] = lambda: ResultsSection().keep_s,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._pool = pool
        self._on_outbox = on_outbox
        self._keep_s = keep_s
        self._now_us = now_us
        self.counts = {status: 0 for status in Status if status.ended}

    async def succeed(self, job: Job, made: Made, files: tuple[ResultFile, ...]) -> Job | None:
        """Ends a claimed job well and charges it; None when the claim was lost meanwhile, and nothing has happened."""
        record = settlement.charge(job, made, spender=job.spender, ended_at_us=self._now_us())
        how = store.End(
            move=Move.SUCCEED,
            charge_nano_usd=record.charge_nano_usd,
            results=files,
            keep_s=self._keep_s(),
            used=made.used,
        )
        return await self._end(job.order.id, how, lambda _: record, claim_number=job.claims)

    async def fail(self, job: Job, *, code: Code, message: str, is_provider: bool = True) -> Job | None:
        """Ends a claimed job badly; it costs nothing. None when the claim was lost meanwhile."""
        how = store.End(move=Move.FAIL, error_code=code.value, error_message=message[:1000])
        ended = usage_pb2.ENDED_UPSTREAM_FAILED if is_provider else usage_pb2.ENDED_GATEWAY_FAILED
        return await self._end(job.order.id, how, self._void(ended, FAILED_STATUS), claim_number=job.claims)

    async def expire(self, task_id: str, *, code: Code, message: str) -> Job | None:
        """Ends a job badly whoever has it; it costs nothing. None when it has ended before."""
        how = store.End(move=Move.FAIL, error_code=code.value, error_message=message)
        return await self._end(task_id, how, self._void(usage_pb2.ENDED_GATEWAY_FAILED, FAILED_STATUS))

    async def lose(self, job: Job, made: Made, *, code: Code, message: str) -> Job | None:
        """Ends a claimed job that its provider has finished and that can't be handed over: free, and our loss."""
        how = store.End(move=Move.FAIL, error_code=code.value, error_message=message[:1000])

        def settle(ended: Job) -> usage_pb2.UsageRecorded:
            return settlement.loss(ended, made, http_status=FAILED_STATUS, ended_at_us=self._now_us())

        return await self._end(job.order.id, how, settle, claim_number=job.claims)

    async def cancel(self, task_id: str) -> Job | None:
        """Ends a job whoever has it; it costs nothing. None when it has ended before."""
        how = store.End(move=Move.CANCEL)
        return await self._end(task_id, how, self._void(usage_pb2.ENDED_CLIENT_GONE, CANCELLED_STATUS))

    def _void(self, ended: usage_pb2.Ended.ValueType, http_status: int) -> Callable[[Job], usage_pb2.UsageRecorded]:
        return lambda job: settlement.void(job, ended=ended, http_status=http_status, ended_at_us=self._now_us())

    async def _end(
        self,
        task_id: str,
        how: store.End,
        settle: Callable[[Job], usage_pb2.UsageRecorded],
        *,
        claim_number: int | None = None,
    ) -> Job | None:
        async def work(conn: db.Connection) -> Job | None:
            ended = await store.end(conn, task_id, how, claim_number=claim_number)
            if ended is None:
                return None
            record, news = settle(ended).SerializeToString(), events.finished(ended)
            trace = ended.order.traceparent
            await outbox.add(conn, kind="usage", task_id=task_id, payload=record, traceparent=trace)
            await outbox.add(conn, kind="finished", task_id=task_id, payload=news, traceparent=trace)
            await _add_webhook(conn, ended)
            return ended

        ended = await db.in_transaction(self._pool, work)
        if ended is not None:
            self.counts[ended.status] += 1
            self._on_outbox()
        return ended


async def _add_webhook(conn: db.Connection, ended: Job) -> None:
    order = ended.order
    if order.webhook_url:
        newest, *_ = await file_store.link_secrets(conn)
        body = webhook_body.of_end(ended, link_secret=newest)
        await webhook_store.add(conn, task_id=order.id, customer_id=order.customer_id, url=order.webhook_url, body=body)
