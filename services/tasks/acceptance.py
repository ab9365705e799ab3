"""Taking a job on: its price is asked, the most it can cost is held, and only then it exists.

The hold's id follows from the task's, so that a caller who repeats itself after a lost answer holds once. A crash
between the hold and the insert leaves a hold without a job, which lives for minutes only: the caller's repetition finds
it, or holds anew. Once the job is there its hold outlives it.
"""

import dataclasses
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from chassis import db
from chassis.errors import Code, TollbridgeError
from pricing.charge import ChargeOutOfRange, worst_case_nano_usd
from pricing.prices import PriceVersion, usd_text
from services.tasks import events, outbox, store
from services.tasks.config import ResultsSection
from services.tasks.files import file_store
from services.tasks.jobs import ACCEPTANCE_HOLD_S, Job, Order
from services.tasks.making import kinds
from services.tasks.making.kind import Wanted
from services.tasks.webhooks.webhooks import Webhooks
from tollbridge.billing.v1 import billing_pb2
from tollbridge.router.v1 import router_pb2
from upstream import decision

HOLD_NAMESPACE = uuid.UUID("6f3c1c1e-6a0e-5c55-9a7c-0f4c9a5b7d11")
MAX_HOLDS = 3
"""So often a task that never came to be is ordered anew under its id."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a caller asks for. `caps` are the spend caps that bind it, which billing keeps when it holds the credits."""

    task_id: str
    customer_id: str
    key_id: str
    kind: str
    model: str
    body: bytes = dataclasses.field(repr=False)
    traceparent: str
    fingerprint: bytes
    caps: tuple[billing_pb2.SpendCap, ...] = ()
    max_cost_nano_usd: int | None = None
    webhook_url: str = ""
    files_url: str = ""


class Acceptance:
    """Accepts jobs. `models` asks router, `hold` asks billing."""

    def __init__(
        self,
        *,
        pool: db.Pool,
        models: Callable[[], Awaitable[Iterable[router_pb2.Model]]],
        hold: Callable[[billing_pb2.HoldRequest, str], Awaitable[None]],
        keep_hold: Callable[[Job], Awaitable[None]],
        webhooks: Webhooks,
        on_outbox: Callable[[], None],
        rules: Callable[[], ResultsSection] = ResultsSection,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._pool = pool
        self._models = models
        self._hold = hold
        self._keep_hold = keep_hold
        self._webhooks = webhooks
        self._on_outbox = on_outbox
        self._rules = rules
        self._now_us = now_us

    async def accept(self, wish: Wish) -> Job:
        """The job, new or as it was accepted before under the same id.

        Raises INVALID_REQUEST, MODEL_NOT_FOUND, PROVIDER_NOT_CONFIGURED, MAX_COST_EXCEEDED, INSUFFICIENT_CREDITS and
        what else billing refuses with, and IDEMPOTENCY_MISMATCH for an id that stands for something else.
        """
        found = await self._found(wish)
        if found is not None:
            return found
        self._webhooks.check(wish.webhook_url)
        order = await self._order(wish)
        await self._check_room(wish.customer_id)
        _check_cost(order, wish.max_cost_nano_usd)
        if order.is_held:
            order = await self._held(order, wish)

        async def work(conn: db.Connection) -> store.Accepted | None:
            if await store.insert(conn, order, fingerprint=wish.fingerprint):
                await self._webhooks.expect(conn, order)
                await outbox.add(
                    conn,
                    kind="run",
                    task_id=order.id,
                    payload=events.work_order(order),
                    traceparent=order.traceparent,
                )
            return await store.accepted(conn, order.id)  # as it is before any worker has it

        accepted = _of_wish(await db.in_transaction(self._pool, work), wish)
        self._on_outbox()
        if accepted is None:
            raise TollbridgeError(Code.INTERNAL, "The task was accepted and is gone.")
        await self._keep_hold(accepted)
        return accepted

    async def _held(self, order: Order, wish: Wish) -> Order:
        """The order with its money held, for a short time. Where that was done before, and is over, it is done anew."""
        for number in range(MAX_HOLDS):
            name = wish.task_id if not number else f"{wish.task_id} {number}"
            order = dataclasses.replace(order, hold_id=str(uuid.uuid5(HOLD_NAMESPACE, name)))
            try:
                await self._hold(self._hold_request(order, wish), order.traceparent)
            except TollbridgeError as error:
                if error.code is not Code.CONFLICT or number + 1 == MAX_HOLDS:
                    raise
            else:
                break
        return order

    def _hold_request(self, order: Order, wish: Wish) -> billing_pb2.HoldRequest:
        return billing_pb2.HoldRequest(
            hold_id=order.hold_id,
            customer_id=order.customer_id,
            key_id=order.key_id,
            request_id=order.id,
            kind="task",
            amount_nano_usd=order.hold_nano_usd,
            deadline_us=self._now_us() + int(ACCEPTANCE_HOLD_S * 1_000_000),
            caps=wish.caps,
        )

    async def _check_room(self, customer_id: str) -> None:
        """Refuses a customer whose files are too many or too large. Those that are made now don't count yet."""
        rules = self._rules()
        async with db.transaction(self._pool) as conn:
            stored = await file_store.stored(conn, customer_id)
        if stored.bytes < rules.customer_max_bytes and stored.files < rules.customer_max_files:
            return
        raise TollbridgeError(
            Code.PERMISSION_DENIED,
            f"Your {stored.files} files take {stored.bytes >> 20} MiB; {rules.customer_max_files} files and"
            f" {rules.customer_max_mib} MiB are the most. Delete some (DELETE /files/ID), or wait until they expire.",
            details={"reason": "storage_full", "files": str(stored.files), "bytes": str(stored.bytes)},
        )

    async def _found(self, wish: Wish) -> Job | None:
        async with db.transaction(self._pool) as conn:
            return _of_wish(await store.accepted(conn, wish.task_id), wish)

    async def _order(self, wish: Wish) -> Order:
        kind = kinds.kind_of(wish.kind)
        wanted: Wanted = kind.parse(wish.body)
        model = find_model(await self._models(), wish.model, kind=wish.kind)
        size, quality = kind.look(wanted)
        price = decision.price_of(model.price, model.variants, size=size, quality=quality)
        return Order(
            id=wish.task_id,
            customer_id=wish.customer_id,
            key_id=wish.key_id,
            kind=wish.kind,
            model=model.id,
            body=wish.body,
            price_version=price.id,
            hold_id=str(uuid.uuid5(HOLD_NAMESPACE, wish.task_id)),
            hold_nano_usd=worst_case(price, model.bounds, wanted=wanted, body_bytes=len(wish.body)),
            time_to_live_s=kind.time_to_live_s,
            traceparent=wish.traceparent,
            webhook_url=wish.webhook_url,
            files_url=wish.files_url,
            shown=msgspec.json.encode(kind.shown(wanted)),
        )


def _of_wish(found: store.Accepted | None, wish: Wish) -> Job | None:
    if found is None:
        return None
    if found.fingerprint != wish.fingerprint:
        raise TollbridgeError(Code.IDEMPOTENCY_MISMATCH, "This task_id stands for another task.")
    return found.job


def find_model(models: Iterable[router_pb2.Model], name: str, *, kind: str) -> router_pb2.Model:
    """The model of that id or alias that makes what is asked for."""
    for model in models:
        if name != model.id and name not in model.aliases:
            continue
        if model.category != kind:
            break
        if not model.configured or not model.HasField("price"):
            raise TollbridgeError(Code.PROVIDER_NOT_CONFIGURED, f"The model {name!r} has no provider.")
        return model
    raise TollbridgeError(Code.MODEL_NOT_FOUND, f"There is no {kind} model {name!r}.", details={"param": "model"})


def _check_cost(order: Order, max_cost_nano_usd: int | None) -> None:
    if max_cost_nano_usd is None or order.hold_nano_usd <= max_cost_nano_usd:
        return
    worst = usd_text(order.hold_nano_usd)
    message = f"This task could cost {worst} USD, which is more than its caller allows ({usd_text(max_cost_nano_usd)})."
    raise TollbridgeError(Code.MAX_COST_EXCEEDED, message, details={"worst_case_usd": worst})


def worst_case(price: PriceVersion, bounds: router_pb2.ModelBounds, *, wanted: Wanted, body_bytes: int) -> int:
    """The most that a job can be charged. No token is shorter than a byte; its order bounds the output."""
    try:
        return worst_case_nano_usd(
            price,
            input_tokens=body_bytes + bounds.template_tokens,
            output_tokens=wanted.output_tokens(bounds.max_output) + bounds.hidden_output,
            units=wanted.most,
        )
    except ChargeOutOfRange as error:
        raise TollbridgeError(Code.INVALID_REQUEST, "This task would cost more than any may.") from error
