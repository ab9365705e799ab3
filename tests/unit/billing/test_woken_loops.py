"""Loops that rest until much is written end when they are told to, also in the moment in which they are woken."""

import asyncio
from typing import cast

import pytest
import structlog
from prometheus_client import CollectorRegistry

from chassis import db
from chassis.bus import Bus
from services.billing import outbox
from services.billing.alerts.balance_notices import BalanceNotices
from services.billing.figures import Figures
from services.billing.outbox import Outbox
from services.billing.proof import sealer
from services.billing.proof.sealer import Sealer
from services.billing.written import Memory

NOTHING = object()


class IdleOutbox(Outbox):
    """Finds nothing to send."""

    async def send_once(self) -> int:
        return 0


class IdleSealer(Sealer):
    """Finds nothing to seal."""

    async def seal(self) -> int:
        return 0


def idle_outbox(memory: Memory) -> IdleOutbox:
    return IdleOutbox(
        pool=cast("db.Pool", NOTHING),
        bus=cast("Bus", NOTHING),
        notices=cast("BalanceNotices", NOTHING),
        figures=Figures(registry=CollectorRegistry()),
        log=structlog.get_logger(),
        memory=memory,
    )


def idle_sealer(memory: Memory) -> IdleSealer:
    return IdleSealer(pool=cast("db.Pool", NOTHING), log=structlog.get_logger(), memory=memory)


@pytest.mark.parametrize("loop_of", [idle_outbox, idle_sealer])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_a_loop_that_is_woken_and_cancelled_at_once_ends(loop_of, turns: int, monkeypatch: pytest.MonkeyPatch):
    """Billing writes until it stops: so its last word and its end come together."""
    monkeypatch.setattr(outbox, "IDLE_PAUSE_S", 60.0)
    monkeypatch.setattr(sealer, "LEAST_PAUSE_S", 0.0)
    memory = Memory()
    task = asyncio.create_task(loop_of(memory).run())
    for _ in range(10):
        await asyncio.sleep(0)
    memory.is_filling.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    done, _pending = await asyncio.wait([task], timeout=5)
    task.cancel()
    assert done
