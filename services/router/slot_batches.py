"""Slots taken and given back together: what is asked while one batch is at the database makes the next one.

A slot costs a statement of its own only where few ask. One batch at a time per replica, so what was asked first is done
first: an attempt that takes, gives up and gives back never gives back before it has taken.
"""

import asyncio
import dataclasses
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping

from chassis.errors import Code, TollbridgeError

MOST = 256
"""In one batch."""
PACE_S = 0.005
"""While several ask at once batches begin so far apart; who asks alone is served at once."""
LONGEST_S = 4.0
"""A batch that takes longer keeps nobody waiting, and nobody new: longer than locks of a paused replica last."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """One attempt's wish for a slot of that account."""

    attempt_id: str
    request_id: str
    account_id: str
    spender: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What is done in one statement: first what is over gives back, then the takes are seated in order.

    No attempt is in it twice.
    """

    over: tuple[str, ...] = ()
    takes: tuple[Take, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The accounts of attempts that gave back a slot, and of those that hold one now."""

    over: Mapping[str, str]
    held: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    attempt_id: str
    take: Take | None
    answer: asyncio.Future[str | None]


class Line:
    """What waits for the next batch, in order."""

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._waiting: deque[_Asked] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, asked: _Asked) -> None:
        """Waits from now on."""
        self._waiting.append(asked)

    def next(self) -> list[_Asked]:
        """The longest waiting: no attempt twice, and of one attempt never the later before the earlier.

        Left out for good are takes for which nobody waits any more; what is given back is given back all the same.
        """
        chosen: dict[str, _Asked] = {}
        later: list[_Asked] = []
        while self._waiting and len(chosen) < self._most:
            asked = self._waiting.popleft()
            if asked.take is not None and asked.answer.done():
                continue
            if asked.attempt_id in chosen:
                later.append(asked)
            else:
                chosen[asked.attempt_id] = asked
        self._waiting.extendleft(reversed(later))
        return list(chosen.values())

    def clear(self) -> list[_Asked]:
        """All of them; nobody waits any more."""
        found = list(self._waiting)
        self._waiting.clear()
        return found


class SlotBatches:
    """Asks in batches. It owns the one task that runs them, which ends when nothing waits."""

    def __init__(
        self, *, run: Callable[[Batch], Awaitable[Done]], most: int = MOST, longest_s: float = LONGEST_S
    ) -> None:
        self._run, self._longest_s = run, longest_s
        self._line = Line(most=most)
        self._task: asyncio.Task[None] | None = None
        self._stands_still = False

    async def take(self, take: Take) -> str | None:
        """The account where the attempt holds a slot now, None when the account has none free. Raises UNAVAILABLE.

        Who leaves, or is given up, while the batch is at the database may hold a slot without knowing.
        """
        return await self._ask(take.attempt_id, take)

    async def release(self, attempt_ids: Collection[str]) -> dict[str, str]:
        """Gives back what they hold; the accounts of those that held one. Raises UNAVAILABLE."""
        ids = sorted(set(attempt_ids))
        accounts = await asyncio.gather(*(self._ask(attempt_id, None) for attempt_id in ids))
        return {attempt_id: account for attempt_id, account in zip(ids, accounts, strict=True) if account is not None}

    def _ask(self, attempt_id: str, take: Take | None) -> asyncio.Future[str | None]:
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        if self._stands_still:
            answer.set_exception(_no_answer())
            return answer
        self._line.add(_Asked(attempt_id=attempt_id, take=take, answer=answer))
        if self._task is None:
            self._task = asyncio.create_task(self._serve(), name="slot-batches")
        return answer

    async def _serve(self) -> None:
        """Runs batches until nothing waits; counted out in the step that finds so, since who asks next looks at it."""
        clock = asyncio.get_running_loop().time
        try:
            while asked := self._line.next():
                began_s = clock()
                await self._serve_one(asked)
                if len(asked) > 2:  # one that gives back and one that takes are no crowd
                    await asyncio.sleep(max(0.0, began_s + PACE_S - clock()))
        finally:
            self._task = None

    async def _serve_one(self, asked: list[_Asked]) -> None:
        """A failure belongs to the callers, and to those who wait behind them: they waited for the same database."""
        over = tuple(each.attempt_id for each in asked if each.take is None)
        takes = tuple(each.take for each in asked if each.take is not None)
        self._count_down(asked, 2)
        try:
            done = await self._run(Batch(over=over, takes=takes))
        except Exception as error:  # noqa: BLE001  handed on to each caller, who raises it
            _refuse([*asked, *self._line.clear()] if isinstance(error, TollbridgeError) else asked, error)
            return
        finally:
            self._timer.cancel()
            self._stands_still = False
        for each in asked:
            if not each.answer.done():
                each.answer.set_result((done.over if each.take is None else done.held).get(each.attempt_id))

    def _count_down(self, asked: list[_Asked], halves: int) -> None:
        """Gives a batch up after half the time, twice: a process that was paused has not heard yet what came meanwhile.

        It goes on all the same, and no other begins before it has ended, or calls would lose their order.
        """
        if halves:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._longest_s / 2, self._count_down, asked, halves - 1)
            return
        self._stands_still = True
        _refuse([*asked, *self._line.clear()], _no_answer())


def _refuse(asked: list[_Asked], error: Exception) -> None:
    for each in asked:
        if not each.answer.done():
            each.answer.set_exception(error)


def _no_answer() -> TollbridgeError:
    return TollbridgeError(Code.UNAVAILABLE, "the database does not answer", retry_after_s=1)
