"""When a client is given up that does not take what is sent to it: by real sockets, at a clock that the test turns."""

import contextlib
import socket
from collections.abc import Callable, Iterator

import pytest

from services.edge.http import unread
from services.edge.http.unread import Unread, UnreadRoom, unacknowledged_bytes
from tests.unit.edge.world import until


class Clock:
    """A loop's time, which passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._due: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, call: Callable[[], None]) -> "Clock":
        self._due.append((self.now_s + delay_s, call))
        return self

    def cancel(self) -> None:
        self._due.clear()

    def stop(self, seconds: float) -> None:
        """Nothing runs meanwhile; what was due then is late."""
        self.now_s += seconds
        due, self._due = self._due, []
        for at_s, call in due:
            if at_s <= self.now_s:
                call()
            else:
                self._due.append((at_s, call))

    def pass_by(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self._due and self._due[0][0] <= until_s:
            self.now_s, call = self._due.pop(0)
            call()
        self.now_s = until_s


class Wire:
    """What a transport has to say of itself: the socket, and what has not reached it."""

    def __init__(self, sock: socket.socket | None = None, *, waiting_bytes: int = 0) -> None:
        self.sock = sock
        self.waiting_bytes = waiting_bytes
        self.aborted = False

    def get_extra_info(self, _: str) -> socket.socket | None:
        return self.sock

    def get_write_buffer_size(self) -> int:
        return 0 if self.aborted else self.waiting_bytes

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two ends of a TCP connection; the first one's buffers are full."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    ours.setblocking(False)
    theirs.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(bytes(1 << 20))
    yield ours, theirs
    ours.close()
    theirs.close()


def watched(wire: Wire, clock: Clock, room: UnreadRoom | None = None) -> Unread:
    made = Unread(transport=wire, room=room or UnreadRoom(), loop=clock)  # type: ignore[arg-type]  # what it needs
    made.begin()
    return made


async def take(ours: socket.socket, theirs: socket.socket, size: int) -> None:
    """Reads so much that the other side hears of it."""
    before = unacknowledged_bytes(ours)

    def heard() -> bool:
        with contextlib.suppress(BlockingIOError):
            theirs.recv(size)
        return unacknowledged_bytes(ours) <= before - size

    await until(heard, within_s=30)


async def test_a_slow_reader_is_waited_for_as_long_as_it_reads(pair: tuple[socket.socket, socket.socket]):
    """Though its machine tells of what was read in minutes only, and ours has no room for more meanwhile."""
    ours, theirs = pair
    clock, wire = Clock(), Wire(ours, waiting_bytes=8 << 20)
    watched(wire, clock)
    for _ in range(3):
        await take(ours, theirs, unread.LEAST_BYTES)
        clock.pass_by(250)
        assert not wire.aborted
    clock.pass_by(360)
    assert wire.aborted


def test_a_reader_that_takes_nothing_is_given_up_after_minutes(pair: tuple[socket.socket, socket.socket]):
    """Not before."""
    clock, wire = Clock(), Wire(pair[0], waiting_bytes=8 << 20)
    watched(wire, clock)
    clock.pass_by(unread.TIMEOUT_S - 1)
    assert not wire.aborted
    clock.pass_by(1)
    assert wire.aborted


def test_a_time_in_which_we_stood_still_is_hardly_any(pair: tuple[socket.socket, socket.socket]):
    """A machine that was asleep heard nothing of its clients, however well they read."""
    clock, wire = Clock(), Wire(pair[0], waiting_bytes=8 << 20)
    watched(wire, clock)
    clock.stop(10 * unread.TIMEOUT_S)
    clock.pass_by(unread.TIMEOUT_S - unread.TIMEOUT_S / unread.LOOKS - 1)
    assert not wire.aborted
    clock.pass_by(1)
    assert wire.aborted


def test_crumbs_are_nothing(pair: tuple[socket.socket, socket.socket]):
    """Who takes a byte now and then could keep an answer here for years."""
    clock, wire = Clock(), Wire(pair[0], waiting_bytes=8 << 20)
    watched(wire, clock)
    for _ in range(5):
        wire.waiting_bytes -= unread.LEAST_BYTES // 6
        clock.pass_by(unread.TIMEOUT_S / 5)
    assert wire.aborted


def test_what_was_taken_in_the_end_is_not_watched_any_more(pair: tuple[socket.socket, socket.socket]):
    """A connection may be quiet for as long as others may."""
    clock, wire = Clock(), Wire(pair[0], waiting_bytes=8 << 20)
    room = UnreadRoom()
    watched(wire, clock, room).end()
    clock.pass_by(10 * unread.TIMEOUT_S)
    assert not wire.aborted
    assert not room.waiting


def test_where_there_is_no_more_room_the_slowest_are_given_up_first(pair: tuple[socket.socket, socket.socket]):
    """None of them in the first seconds, and no more of them than must be."""
    clock, room = Clock(), UnreadRoom(most_bytes=100)
    slow, slower, last = (Wire(pair[0], waiting_bytes=60) for _ in range(3))
    watched(slower, clock, room)
    clock.pass_by(1)
    watched(slow, clock, room)
    assert not slower.aborted
    clock.pass_by(unread.GRACE_S)
    watched(last, clock, room)
    assert (slower.aborted, slow.aborted, last.aborted) == (True, True, False)


def test_who_reads_is_given_up_after_those_who_do_not(pair: tuple[socket.socket, socket.socket]):
    """By what was taken up to now, not when it was last looked at; but who reads gets no more room than there is."""
    clock, room = Clock(), UnreadRoom(most_bytes=5 << 20)
    reads, idle, last, large = (Wire(pair[0], waiting_bytes=size << 20) for size in (2, 2, 2, 4))
    watched(reads, clock, room)
    clock.pass_by(1)
    watched(idle, clock, room)
    clock.pass_by(unread.GRACE_S)
    reads.waiting_bytes -= unread.LEAST_BYTES
    watched(last, clock, room)
    assert (reads.aborted, idle.aborted, last.aborted) == (False, True, False)
    clock.pass_by(unread.GRACE_S)
    reads.waiting_bytes -= unread.LEAST_BYTES
    watched(large, clock, room)
    assert (reads.aborted, last.aborted, large.aborted) == (True, True, False)


def test_a_socket_that_can_not_be_asked_says_nothing():
    """Then what this process keeps is all that counts."""
    with socket.socket() as closed:
        pass
    assert unacknowledged_bytes(closed) == 0
