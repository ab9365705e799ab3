"""Whether a client takes what is sent to it, and how much may wait for such clients.

That the kernel takes no more of us says little: it keeps megabytes of a connection, and has room again only once a
third of them are gone, which is minutes at the pace of a bad line. So what counts is what the client's own machine has
acknowledged. Who takes something gets all of it, however long that lasts; who takes nothing is given up; and where
more waits than this process has room for, those who were last seen to take something longest ago are given up first.
"""

import asyncio
import fcntl
import socket
import sys
import termios

TIMEOUT_S = 300.0
"""So long a client may take less than LEAST_BYTES. A machine tells of room in sixteenths of its receive buffer, 6 MiB
by default in Linux: at 4 KB/s two minutes pass between two signs of life (measured: 131 s)."""
LOOKS = 5
"""In that time, and no fewer: our own stop is one, however long. A client that stops is given up at most one later."""
LEAST_BYTES = 64 << 10
MOST_WAITING_BYTES = 512 << 20
"""In the write buffers of all clients that wait."""
GRACE_S = 10.0
"""No wait is ended for want of room so soon: what waits only now is mostly gone in a moment."""
_SO_NWRITE = 0x1024


class UnreadRoom:
    """What there is for what clients have not taken, on all ports of a process."""

    def __init__(self, *, most_bytes: int = MOST_WAITING_BYTES) -> None:
        self.most_bytes = most_bytes
        self.waiting: dict[Unread, int] = {}

    def keep(self, unread: "Unread") -> None:
        """What this one keeps now; makes room if it is too much with what all others keep."""
        self.waiting[unread] = unread.waiting_bytes
        if sum(self.waiting.values()) <= self.most_bytes:
            return
        for each in self.waiting:
            each.look()
            self.waiting[each] = each.waiting_bytes
        excess_bytes = sum(self.waiting.values()) - self.most_bytes
        for each in sorted(self.waiting, key=lambda found: (found.taken_at_s, found.begun_at_s)):
            if excess_bytes <= 0:
                return
            if each.has_waited(GRACE_S):
                each.give_up()
                excess_bytes -= self.waiting[each]
                self.waiting[each] = 0


class Unread:
    """What one connection's client has not taken; watched while a write waits for it."""

    __slots__ = (
        "_least_left_bytes",
        "_looks",
        "_loop",
        "_room",
        "_socket",
        "_timer",
        "_transport",
        "begun_at_s",
        "taken_at_s",
    )

    def __init__(self, *, transport: asyncio.Transport, room: UnreadRoom, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._socket: socket.socket = transport.get_extra_info("socket")
        self._room = room
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._least_left_bytes = 0
        self._looks = 0  # since it was last seen that the client had taken something
        self.begun_at_s = 0.0
        """When this wait began."""
        self.taken_at_s = 0.0
        """When it was last seen that the client had taken something."""

    @property
    def waiting_bytes(self) -> int:
        """What this process keeps for the client."""
        return self._transport.get_write_buffer_size()

    def begin(self) -> None:
        """A write waits for the client."""
        self.end()
        self.begun_at_s = self.taken_at_s = self._loop.time()
        self._least_left_bytes, self._looks = self._left_bytes(), 0
        self._timer = self._loop.call_later(TIMEOUT_S / LOOKS, self._judge)
        self._room.keep(self)

    def end(self) -> None:
        """None does any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._room.waiting.pop(self, None)

    def look(self) -> None:
        """Sees whether the client has taken something since it was last seen to."""
        left_bytes = self._left_bytes()
        if self._least_left_bytes - left_bytes >= LEAST_BYTES:
            self._least_left_bytes, self._looks = left_bytes, 0
            self.taken_at_s = self._loop.time()

    def has_waited(self, seconds: float) -> bool:
        """Whether this wait lasts for so long, however much was taken meanwhile."""
        return self._loop.time() - self.begun_at_s >= seconds

    def give_up(self) -> None:
        """Ends the connection."""
        self._transport.abort()

    def _judge(self) -> None:
        self._looks += 1
        self.look()
        if self._looks >= LOOKS and self._loop.time() - self.taken_at_s >= TIMEOUT_S:
            self.give_up()
            return
        self._timer = self._loop.call_later(TIMEOUT_S / LOOKS, self._judge)
        self._room.keep(self)

    def _left_bytes(self) -> int:
        return self.waiting_bytes + unacknowledged_bytes(self._socket)


def unacknowledged_bytes(sock: socket.socket) -> int:
    """What the kernel keeps until the other machine has acknowledged it; 0 where it can't be asked."""
    try:
        if sys.platform == "darwin":
            return sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except (OSError, ValueError):  # it is closed, or no such thing is known of it
        return 0
