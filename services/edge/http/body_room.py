"""Memory for large bodies: a process takes so many bytes of them at once, and refuses the rest until some have ended.

A body is kept until its request has ended, since an attempt that fails is made again from it, and is copied for the
provider. Small ones are bounded by the number of connections.
"""

from chassis.errors import Code, TollbridgeError

SMALL_BYTES = 1 << 20
MOST_BYTES = 256 << 20
"""With the copies of it, about three quarters of a gigabyte."""


class BodyRoom:
    """What there is for the bodies of one process."""

    def __init__(self, *, most_bytes: int = MOST_BYTES) -> None:
        self.left_bytes = most_bytes

    def share(self) -> "BodyShare":
        """One body's share; who has it ends it."""
        return BodyShare(self)


class BodyShare:
    """What one body takes; nothing while it is small."""

    __slots__ = ("_bytes", "_room")

    def __init__(self, room: BodyRoom) -> None:
        self._room = room
        self._bytes = 0

    def grow(self, size: int) -> None:
        """The body is that large by now. Raises OVERLOADED."""
        if size <= SMALL_BYTES:
            return
        more = size - self._bytes
        if more > self._room.left_bytes:
            raise TollbridgeError(Code.OVERLOADED, "Too many large requests run here. Please retry.", retry_after_s=1)
        self._room.left_bytes -= more
        self._bytes = size

    def end(self) -> None:
        """The body is gone."""
        self._room.left_bytes += self._bytes
        self._bytes = 0
