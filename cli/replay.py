"""`ledger replay`: reads both streams from their beginnings and shows where the live ledger differs from them.

With `--lost` it shows only what a restored ledger lacks and what no usage brings back.
"""

import asyncio
import datetime
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cli.admin import show_table
from cli.running import NotRunning, find_database, find_instance
from pricing.prices import usd_text

if TYPE_CHECKING:
    from nats.js import JetStreamContext

    from services.billing.proof.replay import Report, Streams

CLEAN, DIFFERENCES, NOT_READABLE = 0, 1, 2
CONNECT_S = 5
FETCH_S = 5.0
BATCH = 500
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def replay(data_dir: Path | None, *, as_json: bool) -> int:
    """Prints the report; returns 0 when the streams make the live ledger, 1 on a difference, 2 when unreadable."""
    import nats.errors
    import psycopg

    try:
        report = compared(data_dir)
    except (NotRunning, psycopg.Error, nats.errors.Error, OSError) as error:
        print(f"the ledger can't be replayed: {error!r}", file=sys.stderr)
        return NOT_READABLE
    if as_json:
        print(msgspec.json.encode(report).decode())
    else:
        for example in report.examples:
            print(example)
        scope = "" if report.complete else " Balances were not compared: the streams have dropped their beginning."
        print(
            f"{report.transfers} transfers, {report.usage_events} charges and {report.balances} balances were compared;"
            f" {report.differences} differ. {report.waiting} charges wait; {report.on_no_stream} came by no stream."
            + scope
        )
    return CLEAN if report.clean else DIFFERENCES


def show_lost(data_dir: Path | None, *, as_json: bool) -> int:
    """Prints what LEDGER has and the ledger lacks, without charges; 0 when that is nothing, 1, 2 unreadable."""
    import nats.errors
    import psycopg

    from services.billing.proof.replay import lost
    from services.billing.proof.replay_store import read_live

    try:
        streams = asyncio.run(_read(_nats_url(data_dir)))
        found = lost(streams, read_live(find_database(data_dir)))  # in this order: what leaves meanwhile is there
    except (NotRunning, psycopg.Error, nats.errors.Error, OSError) as error:
        print(f"the ledger can't be compared: {error!r}", file=sys.stderr)
        return NOT_READABLE
    if as_json:
        print(msgspec.json.encode(found).decode())
    elif found:
        rows = [{**msgspec.to_builtins(each), "usd": usd_text(each.amount_nano_usd)} for each in found]
        show_table(rows, ("id", "kind", "debit", "credit", "usd", "event_id"))
    return DIFFERENCES if found else CLEAN


def compared(data_dir: Path | None) -> "Report":
    """Reads both streams and the ledger. Raises NotRunning, psycopg.Error, nats.errors.Error and OSError."""
    from services.billing.proof.replay import compare
    from services.billing.proof.replay_store import read_live

    database_url, nats_url = find_database(data_dir), _nats_url(data_dir)
    before = read_live(database_url)
    streams = asyncio.run(_read(nats_url))
    return compare(before, streams, read_live(database_url))


def _nats_url(data_dir: Path | None) -> str:
    given = os.environ.get("TOLLBRIDGE_NATS_URL", "")
    if data_dir is None and given:
        return given
    return str(find_instance(data_dir).content["nats_url"])


async def _read(nats_url: str) -> "Streams":
    from google.protobuf.message import DecodeError
    from nats.js.errors import NotFoundError

    from chassis.bus_link import Link, inbox_of
    from chassis.settings import ServiceSettings, load
    from chassis.tls import Certificates
    from services.billing import events
    from services.billing.proof.replay import Streams

    streams = Streams()

    def usage(data: bytes, place: int) -> None:
        try:
            streams.add_usage(data, place=place)
        except DecodeError:
            return  # set aside whole

    try:
        async with asyncio.timeout(CONNECT_S):  # the client itself would try again for two minutes
            client = Link(Certificates.of(load(ServiceSettings)))
            inbox = inbox_of(nats_url)
            await client.connect(nats_url, inbox_prefix=inbox, connect_timeout=CONNECT_S, allow_reconnect=False)
    except TimeoutError as error:
        raise ConnectionError("the bus can't be reached") from error
    try:
        context = client.jetstream()
        try:
            done = await context.consumer_info(events.USAGE.name, events.APPLY_USAGE.durable)
            streams.applied_until = done.ack_floor.stream_seq if done.ack_floor else 0
        except NotFoundError:
            streams.applied_until = 0
        whole = await _each(
            context,
            events.LEDGER.name,
            events.LEDGER_TRANSFERRED,
            lambda it, place: streams.add_ledger(it, place=place),
        )
        made = (await context.stream_info(events.LEDGER.name)).created
        streams.made_us = (made - EPOCH) // datetime.timedelta(microseconds=1) if made else 0
        streams.complete = await _each(context, events.USAGE.name, events.USAGE_RECORDED, usage) and whole
    finally:
        await client.close()
    return streams


async def _each(context: "JetStreamContext", stream: str, subject: str, take: Callable[[bytes, int], None]) -> bool:
    """Hands over every message that the stream has now; False when its first ones are gone."""
    from nats.js import api

    state = (await context.stream_info(stream)).state
    if not state.messages:
        return state.last_seq == 0
    config = api.ConsumerConfig(ack_policy=api.AckPolicy.NONE, deliver_policy=api.DeliverPolicy.ALL)
    subscription = await context.pull_subscribe(subject, stream=stream, config=config)
    first, waiting = 0, True
    while waiting:
        for message in await subscription.fetch(BATCH, timeout=FETCH_S):
            first = first or message.metadata.sequence.stream  # more may have been dropped since we asked
            take(message.data, message.metadata.sequence.stream)
            waiting = message.metadata.num_pending > 0
    await subscription.unsubscribe()
    return first == 1
