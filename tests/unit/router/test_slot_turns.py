"""Many slots taken and given back in one statement, by many connections at once to one real PostgreSQL."""

import asyncio
import random
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.errors import UniqueViolation

from chassis import db
from services.router import store
from services.router.attempts import Page
from services.router.slot_batches import Batch, Done, Take
from tests.unit.router.pair import Pair, rows

ACCOUNTS = ("a1", "a2")


NEVER_MORE = """
    CREATE FUNCTION router.never_more() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.in_use > NEW.slots THEN RAISE EXCEPTION 'more than there are'; END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER never_more AFTER UPDATE ON router.provider_accounts
        FOR EACH ROW EXECUTE FUNCTION router.never_more()
"""
"""What is written, and not a CHECK: that one looks at what would be written before others' locks are waited for."""


@pytest.fixture
def never_more(schema: str, pair: Pair) -> Iterator[None]:
    """PostgreSQL itself refuses a count above `slots`."""
    assert pair
    with psycopg.connect(schema, autocommit=True) as connection:
        connection.execute(NEVER_MORE)
        yield
        connection.execute("DROP FUNCTION router.never_more CASCADE")


async def turn(pair: Pair, *, over: tuple[str, ...] = (), takes: tuple[Take, ...] = ()) -> Done:
    return await db.in_transaction(
        pair.pool, lambda connection: store.turn(connection, Batch(over=over, takes=takes)), alone=True
    )


def take(account_id: str, *, spender: str = "", attempt_id: str = "") -> Take:
    ids = (attempt_id or str(uuid.uuid4()), str(uuid.uuid4()), spender or str(uuid.uuid4()))
    return Take(attempt_id=ids[0], request_id=ids[1], account_id=account_id, spender=ids[2])


@pytest.mark.usefixtures("never_more")
async def test_batches_of_many_connections_together_never_exceed_an_account(pair: Pair) -> None:
    """Turns and statements in every mixture: the table refuses a count above, and the counts are those of the rows."""
    seated = [0]

    async def work(seed: int) -> None:
        source, spender, held = random.Random(seed), str(uuid.uuid4()), dict[str, str]()
        for _ in range(12):
            over = tuple(one for one in held if source.random() < 0.6)
            takes = tuple(take(source.choice(ACCOUNTS), spender=spender) for _ in range(source.randrange(4)))
            done = await turn(pair, over=over, takes=takes)
            assert done.over == {one: held.pop(one) for one in over}
            wanted = {each.attempt_id: each.account_id for each in takes}
            assert done.held.items() <= wanted.items()
            held |= done.held
            seated[0] += len(done.held)
            if source.random() < 0.2:
                page = Page(spender=spender, as_of="ffffffff-ffff-7fff-bfff-ffffffffffff", listed=frozenset(held))
                await pair.one.desk.state(page)
        await turn(pair, over=tuple(held))

    async with asyncio.timeout(60):
        await asyncio.gather(*(work(seed) for seed in range(8)))
    assert seated[0] > 20
    assert await rows(pair) == {}


async def test_what_is_given_back_in_a_batch_is_had_by_its_takes_in_order(pair: Pair) -> None:
    """One beyond is refused, and an attempt that holds a slot keeps it whichever account it asks."""
    first = [take("a1"), take("a1"), take("a1"), take("a2"), take("none")]
    done = await turn(pair, takes=tuple(first))
    assert done.held == {first[0].attempt_id: "a1", first[1].attempt_id: "a1", first[3].attempt_id: "a2"}
    again = take("a2", attempt_id=first[1].attempt_id)
    second = [take("a1"), take("a1")]
    done = await turn(pair, over=(first[0].attempt_id, str(uuid.uuid4())), takes=(again, *second))
    assert done.over == {first[0].attempt_id: "a1"}
    assert done.held == {again.attempt_id: "a1", second[0].attempt_id: "a1"}
    assert await rows(pair) == {"a1": 2, "a2": 1}


async def test_an_attempt_that_two_replicas_seat_at_once_has_one_slot(pair: Pair) -> None:
    """Whoever comes second learns of it, or is told to look again, and takes none."""
    for _ in range(10):
        twins = [take(account_id, attempt_id=str(uuid.uuid4())) for account_id in ACCOUNTS]
        twins[1] = take("a2", attempt_id=twins[0].attempt_id)
        desks = (pair.one.desk, pair.two.desk)
        found = await asyncio.gather(*(desk._turn(Batch(takes=(one,))) for desk, one in zip(desks, twins, strict=True)))
        assert found[0].held == found[1].held
        assert sum((await rows(pair)).values()) == 1
        await turn(pair, over=(twins[0].attempt_id,))


async def test_a_batch_that_failed_has_taken_and_given_back_nothing(pair: Pair) -> None:
    """One statement is all or nothing."""
    held = take("a1")
    await turn(pair, takes=(held,))
    twice = take("a2")
    with pytest.raises(UniqueViolation):
        await turn(pair, over=(held.attempt_id,), takes=(twice, twice))
    assert await rows(pair) == {"a1": 1}
