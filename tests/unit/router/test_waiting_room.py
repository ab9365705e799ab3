"""A line's pace: who would wait in vain is told at once, and nobody is on little evidence."""

import asyncio

from chassis.errors import Code
from services.router.waiting_room import LEAST_SEATS, WaitingRoom, all_busy


class Clock:
    """A time that passes when a test says so."""

    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


class Crowd:
    """Requests that stand in one line and are seated when a test says so."""

    def __init__(self, room: WaitingRoom, clock: Clock) -> None:
        self._room, self._clock = room, clock
        self._seats = asyncio.Semaphore(0)
        self._tasks: list[asyncio.Task[None]] = []

    async def join(self, count: int) -> None:
        self._tasks += [asyncio.create_task(self._stand()) for _ in range(count)]
        await self._turns()

    async def seat(self, count: int, *, each_s: float) -> None:
        for _ in range(count):
            self._clock.now_s += each_s
            self._seats.release()
            await self._turns()

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _stand(self) -> None:
        async with self._room.at_the_head("m", ["a"]):
            await self._seats.acquire()

    async def _turns(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


async def test_a_line_is_as_long_as_its_pace_says() -> None:
    """Twenty wait and one is seated each half a second: who comes now would stand for about ten seconds."""
    clock = Clock()
    room = WaitingRoom(clock=clock)
    crowd = Crowd(room, clock)
    await crowd.join(40)
    assert (room.waiting, room.wait_s("m")) == (40, 0)
    await crowd.seat(20, each_s=0.5)
    assert 9 <= room.wait_s("m") <= 10
    assert room.wait_s("other") == 0
    await crowd.seat(0, each_s=0)
    clock.now_s += 10.0  # and then nobody is seated any more
    assert room.wait_s("m") > 15
    await crowd.leave()
    assert (room.waiting, room.has_line("m"), room.wait_s("m")) == (0, False, 0)


async def test_little_evidence_is_none() -> None:
    """A few slow answers say nothing about when the slots of all others come free; a new line begins without a past."""
    clock = Clock()
    room = WaitingRoom(clock=clock)
    crowd = Crowd(room, clock)
    await crowd.join(30)
    await crowd.seat(LEAST_SEATS - 1, each_s=20.0)
    assert room.wait_s("m") == 0
    await crowd.seat(1, each_s=20.0)
    assert room.wait_s("m") > 100
    await crowd.leave()
    crowd = Crowd(room, clock)
    await crowd.join(2)
    assert room.wait_s("m") == 0
    await crowd.leave()


def test_a_refusal_says_when_the_line_may_have_room() -> None:
    """Never less than a second, and never more than a minute."""
    for after_s, told_s in ((0.0, 1), (0.3, 1), (7.5, 7.5), (900.0, 60)):
        error = all_busy("m", after_s=after_s)
        assert (error.code, error.retry_after_s, error.details["reason"]) == (Code.OVERLOADED, told_s, "busy")
