"""NATS for one process: publish with an acknowledgement, consume with a watchdog, listen at best effort.

The bus may be away at any time, at start too: `connect` returns at once and tries for ever in the background. What must
not get lost is kept by its publisher until JetStream has acknowledged it, and every consumer is idempotent by the
events' own ids; here is no memory. Streams and durables that a server has lost with its disk are made again.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api
from nats.js.errors import NoStreamResponseError, NotFoundError

from chassis.bus_link import Link, inbox_of
from chassis.errors import Code, TollbridgeError
from chassis.streams import StreamSpec, make_stream
from chassis.tls import Certificates

CONNECT_TIMEOUT_S = 2
RECONNECT_PAUSE_S = 0.5  # constant: one client per process, and a bus that is back should be found at once
PING_INTERVAL_S = 5  # two unanswered pings: the server hangs
API_TIMEOUT_S = 5.0
FETCH_S = 5.0
TROUBLE_PAUSE_S = 0.5
STREAM_CHECK_S = 10.0
FAILED_BATCH_NAK_S = 1.0
_TROUBLE = (nats.errors.Error, TimeoutError, OSError)


class Log(Protocol):
    """A structlog logger, as far as it is needed here."""

    def info(self, event: str, **fields: object) -> object: ...
    def warning(self, event: str, **fields: object) -> object: ...
    def exception(self, event: str, **fields: object) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerSpec:
    """A durable pull consumer, shared by all replicas that name it. Unacknowledged for `ack_wait_s`: sent again."""

    stream: str
    durable: str
    subject: str
    max_ack_pending: int
    ack_wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message, delivered for the `deliveries`-th time, to be answered once with ack or nak."""

    data: bytes
    headers: Mapping[str, str]
    subject: str
    deliveries: int
    message: Msg

    async def ack(self) -> None:
        """It is done for good."""
        await self.message.ack()

    async def nak(self, delay_s: float) -> None:
        """Send it again after this time."""
        await self.message.nak(delay=delay_s)

    async def in_progress(self) -> None:
        """Start `ack_wait_s` again."""
        await self.message.in_progress()


class Bus:
    """One process's connection. Owns two tasks: the one that stays connected and the one that keeps the streams."""

    def __init__(self, *, url: str, name: str, log: Log, replicas: int = 1, tls: Certificates | None = None) -> None:
        self._url, self._name, self._log = url, name, log
        self._replicas, self._tls = replicas, tls
        self._client = Link(tls)
        self._reported = False
        self._online = asyncio.Event()
        self._wanted: dict[str, StreamSpec] = {}
        self._present: set[str] = set()
        self._streams_due = asyncio.Event()
        self._tasks = [
            asyncio.create_task(self._tend(work), name=f"bus-{work.__name__}")
            for work in (self._stay_connected, self._keep_streams)
        ]

    @classmethod
    async def connect(
        cls, url: str, *, name: str, log: Log, replicas: int = 1, tls: Certificates | None = None
    ) -> "Bus":
        """A bus that connects, and reconnects for ever, in the background; `name` is shown by the server.

        `replicas`: on how many servers its streams are kept.
        """
        bus = cls(url=url, name=name, log=log, replicas=replicas, tls=tls)
        # A server that is there is used from the first call on; one that is not delays nobody.
        try:
            await asyncio.wait_for(bus._online.wait(), CONNECT_TIMEOUT_S / 4)
        except TimeoutError:
            return bus
        except asyncio.CancelledError:  # nobody will ever own it
            await bus.close()
            raise
        return bus

    @property
    def connected(self) -> bool:
        """Whether the server answers now."""
        return self._client.is_connected

    async def close(self) -> None:
        """Ends the connection; consume and listen must have been cancelled by their owners before."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.end()

    async def ensure_stream(self, spec: StreamSpec) -> None:
        """Makes the stream or widens it to `spec`; when the server is away, as soon as it is there."""
        self._wanted[spec.name] = spec
        self._present.discard(spec.name)
        if self.connected:
            await self._make_streams()

    async def publish(
        self,
        subject: str,
        data: bytes,
        *,
        event_id: str,
        event_type: str,
        source: str,
        traceparent: str = "",
        timeout_s: float = 5.0,
    ) -> None:
        """Returns when JetStream has stored the message. Raises TollbridgeError(UNAVAILABLE): publish it again later,
        with the same `event_id`, as it may have been stored all the same; REQUEST_TOO_LARGE: never publish it so.
        """
        headers = {
            "Nats-Msg-Id": event_id,
            "ce-specversion": "1.0",
            "ce-id": event_id,
            "ce-type": event_type,
            "ce-source": source,
            "ce-time": datetime.now(UTC).isoformat(),
            "content-type": "application/protobuf",
        }
        if traceparent:
            headers["traceparent"] = traceparent
        if not self.connected:
            raise _unavailable()
        try:
            try:
                await self._jetstream().publish(subject, data, timeout=timeout_s, headers=headers)
            except NoStreamResponseError:
                self._present.clear()
                await self._make_streams()
                await self._jetstream().publish(subject, data, timeout=timeout_s, headers=headers)
        except nats.errors.MaxPayloadError as error:
            raise TollbridgeError(Code.REQUEST_TOO_LARGE, "the bus takes no message of this size") from error
        except _TROUBLE as error:
            raise _unavailable() from error

    async def announce(self, subject: str, data: bytes) -> None:
        """Sends to whoever listens now, and to no stream: a hint that nobody keeps. Raises UNAVAILABLE."""
        if not self.connected:
            raise _unavailable()
        try:
            await self._client.publish(subject, data)
        except _TROUBLE as error:
            raise _unavailable() from error

    async def consume(
        self, spec: ConsumerSpec, handle: Callable[[Sequence[Delivery]], Awaitable[None]], *, batch: int = 50
    ) -> None:
        """Hands batches to `handle`, one at a time, until cancelled.

        `handle` answers each delivery; when it raises, what it left unanswered is sent again. Survives the server's
        restarts and the loss of stream and durable.
        """
        while True:
            await self._online.wait()
            try:
                await self._consume(spec, handle, batch)
            except NotFoundError:
                self._log.warning("bus_consumer_lost", durable=spec.durable)
                self._present.discard(spec.stream)
                self._streams_due.set()
            except asyncio.CancelledError:
                # nats-py cancels our fetch when it gives up its client; only our owner cancels the task.
                _end_if_cancelled()
            except _TROUBLE as error:
                self._log.warning("bus_consumer_trouble", durable=spec.durable, error=repr(error))
            _end_if_cancelled()
            await asyncio.sleep(TROUBLE_PAUSE_S)

    async def lag(self, spec: ConsumerSpec) -> int:
        """Messages that its durable has not acked yet. Raises UNAVAILABLE."""
        try:
            info = await self._jetstream().consumer_info(spec.stream, spec.durable)
        except _TROUBLE as error:
            raise _unavailable() from error
        return (info.num_pending or 0) + (info.num_ack_pending or 0)

    async def stream_info(self, name: str) -> bytes:
        """What the server answers of a stream, in JSON: `config` and `state`, or `error`. Raises UNAVAILABLE."""
        try:
            return (await self._client.request(f"$JS.API.STREAM.INFO.{name}", timeout=API_TIMEOUT_S)).data
        except _TROUBLE as error:
            raise _unavailable() from error

    async def listen(self, subject: str, handle: Callable[[bytes], Awaitable[None]]) -> None:
        """Hands every message on `subject` to `handle`, until cancelled; what is sent while we are away is missed."""
        while True:
            await self._online.wait()
            try:
                await self._listen(subject, handle)
            except _TROUBLE as error:
                self._log.warning("bus_listener_trouble", subject=subject, error=repr(error))
            await asyncio.sleep(TROUBLE_PAUSE_S)

    async def _listen(self, subject: str, handle: Callable[[bytes], Awaitable[None]]) -> None:
        """One core subscription's life. Returns when its client is given up."""
        subscription = await self._client.subscribe(subject)
        try:
            async for message in subscription.messages:
                try:
                    await handle(message.data)
                except Exception:  # noqa: BLE001  # logged; one bad message must not deafen us
                    self._log.exception("bus_listener_failed", subject=subject)
        finally:
            with contextlib.suppress(*_TROUBLE):
                await subscription.unsubscribe()

    async def _consume(
        self, spec: ConsumerSpec, handle: Callable[[Sequence[Delivery]], Awaitable[None]], batch: int
    ) -> None:
        """One pull subscription's life. Returns when the watchdog finds it silent while messages wait."""
        jetstream = self._jetstream()
        config = api.ConsumerConfig(
            durable_name=spec.durable,
            filter_subject=spec.subject,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=spec.ack_wait_s,
            max_ack_pending=spec.max_ack_pending,
        )
        await jetstream.add_consumer(spec.stream, config=config, timeout=API_TIMEOUT_S)
        subscription = await jetstream.pull_subscribe_bind(durable=spec.durable, stream=spec.stream)
        waited_for = 0
        try:
            while True:
                try:
                    messages = await subscription.fetch(batch, timeout=FETCH_S)
                except TimeoutError:
                    _end_if_cancelled()
                    info = await subscription.consumer_info()
                    full = (info.num_ack_pending or 0) >= spec.max_ack_pending
                    pending = 0 if full else info.num_pending or 0
                    # Silent for a whole fetch though messages waited at its beginning too: nats-py lost its way.
                    if pending and waited_for:
                        self._log.warning("bus_consumer_silent", durable=spec.durable, pending=pending)
                        return
                    waited_for = pending
                    continue
                waited_for = 0
                _end_if_cancelled()
                await self._hand_over(messages, handle, durable=spec.durable)
        finally:
            with contextlib.suppress(*_TROUBLE):
                await subscription.unsubscribe()

    async def _hand_over(
        self, messages: Sequence[Msg], handle: Callable[[Sequence[Delivery]], Awaitable[None]], *, durable: str
    ) -> None:
        deliveries = [
            Delivery(
                data=message.data,
                headers=message.headers or {},
                subject=message.subject,
                deliveries=message.metadata.num_delivered or 1,
                message=message,
            )
            for message in messages
        ]
        try:
            await handle(deliveries)
        except Exception:  # noqa: BLE001  # logged; the batch comes again
            self._log.exception("bus_handler_failed", durable=durable, deliveries=len(deliveries))
            for message in messages:
                if not message.is_acked:
                    await message.nak(delay=FAILED_BATCH_NAK_S)

    def _jetstream(self) -> JetStreamContext:
        return self._client.jetstream(timeout=API_TIMEOUT_S)

    async def _tend(self, work: Callable[[], Awaitable[None]]) -> None:
        """Runs one of our own tasks until `close`: what ends it otherwise is logged, and it begins anew."""
        while True:
            try:
                await work()
            except asyncio.CancelledError:
                _end_if_cancelled()  # else nats-py's doing, see `consume`
                self._log.warning("bus_task_cancelled", task=work.__name__)
            except Exception:  # noqa: BLE001  # logged; a process without its bus would look alive and do nothing
                self._log.exception("bus_task_failed", task=work.__name__)
            await asyncio.sleep(TROUBLE_PAUSE_S)

    async def _stay_connected(self) -> None:
        """Makes a client, and another when nats-py gives one up, which it may after an error it does not expect."""
        while True:
            await self._client.end()  # the former one's tasks end, however we lost it
            client, gone = Link(self._tls), asyncio.Event()
            self._client = client

            async def closed(gone: asyncio.Event = gone) -> None:
                gone.set()

            try:
                await client.connect(
                    self._url,
                    name=self._name,
                    inbox_prefix=inbox_of(self._url),
                    connect_timeout=CONNECT_TIMEOUT_S,
                    reconnect_time_wait=RECONNECT_PAUSE_S,  # type: ignore[arg-type]  # it sleeps for it: parts count
                    max_reconnect_attempts=-1,
                    ping_interval=PING_INTERVAL_S,
                    max_outstanding_pings=2,
                    error_cb=self._on_error,
                    disconnected_cb=self._on_lost,
                    reconnected_cb=self._on_found,
                    closed_cb=closed,
                )
                await self._on_found()
                await gone.wait()
            except _TROUBLE as error:
                self._log.warning("bus_connect_failed", error=repr(error))
            await self._on_lost()
            await asyncio.sleep(RECONNECT_PAUSE_S)

    async def _on_found(self) -> None:
        self._log.info("bus_connected")
        self._reported = False
        self._online.set()
        # Who comes back may have lost its disk.
        self._present.clear()
        self._streams_due.set()

    async def _on_lost(self) -> None:
        self._online.clear()

    async def _on_error(self, error: Exception) -> None:
        """Logs the first error of an outage and leaves out its repetitions."""
        if not self._reported:
            self._reported = True
            self._log.warning("bus_lost", error=repr(error))

    async def _keep_streams(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STREAM_CHECK_S):  # wait_for can lose a cancellation
                    await self._streams_due.wait()
            self._streams_due.clear()
            await self._online.wait()
            await self._make_streams()

    async def _make_streams(self) -> None:
        """Makes each wanted stream that is not known to be there. What fails is logged and tried again later."""
        for spec in list(self._wanted.values()):
            if spec.name in self._present:
                continue
            try:
                await make_stream(self._jetstream(), spec, self._replicas)
                self._present.add(spec.name)
            except _TROUBLE as error:
                self._log.warning("bus_stream_not_made", stream=spec.name, error=repr(error))


def _end_if_cancelled() -> None:
    """Ends the task if its owner asked for it: Python 3.11's wait_for, inside fetch, may swallow the request."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _unavailable() -> TollbridgeError:
    return TollbridgeError(Code.UNAVAILABLE, "the message bus can't be reached", retry_after_s=1)
