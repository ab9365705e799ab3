"""Questions to Tron."""

import asyncio

import pytest

from chassis.errors import Code, TollbridgeError
from services.billing.config import CryptoSection
from services.billing.payments.tron import TronChain
from tests.fakes.tron import SHOP, fake_tron


async def test_after_a_refusal_nothing_more_is_asked():
    """The chain counts our calls: when it refuses one, those beside it end too."""
    with fake_tron() as tron:
        chain = TronChain(CryptoSection(address=SHOP, api_base=tron.url))
        tron.busy = True
        before = asyncio.all_tasks()
        with pytest.raises(TollbridgeError) as refused:
            await chain.look_up(SHOP, [tron.send(1_000_000).id for _ in range(40)])
        assert refused.value.code is Code.UNAVAILABLE
        assert asyncio.all_tasks() <= before


async def test_one_failed_question_leaves_the_other_answers():
    """What was asked is answered; what was not is missing, which is something else than gone."""
    with fake_tron() as tron:
        chain = TronChain(CryptoSection(address=SHOP, api_base=tron.url))
        ids = [tron.send(1_000_000).id for _ in range(8)]
        tron.refused = {ids[7]}
        found = await chain.look_up(SHOP, [ids[0], "gone", *ids[1:]])
        assert set(ids[:4]) <= found.keys() <= {"gone", *ids[:7]}
        assert not found["gone"]


async def test_what_is_looked_up_comes_in_the_order_asked():
    """However long each answer takes: of two transfers for one payment, the first must have it."""
    with fake_tron() as tron:
        chain = TronChain(CryptoSection(address=SHOP, api_base=tron.url))
        ids = [tron.send(1_000_000).id for _ in range(3)]
        tron.slow = {ids[0]}
        assert list(await chain.look_up(SHOP, ids)) == ids
