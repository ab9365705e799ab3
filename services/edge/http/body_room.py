"""Memory for bodies: a process takes so many bytes of them at once, and refuses the rest until some have ended.

A body is kept until its request has ended, since an attempt that fails is made again from it, and is copied for the
provider. Small ones have a room of their own, which large ones can't fill.
"""

from chassis.errors import Code, TollbridgeError

SMALL_BYTES = 1 << 20
MOST_BYTES = 256 << 20
"""With the copies of it, about three quarters of a gigabyte."""
MOST_SMALL_BYTES = 128 << 20
"""More than all requests of a process, of the usual few kilobytes, have together."""


class BodyRoom:
    """What there is for the bodies of one process."""

    def __init__(self, *, most_bytes: int = MOST_BYTES, most_small_bytes: int = MOST_SMALL_BYTES) -> None:
        self.left_bytes = most_bytes
        self.left_small_bytes = most_small_bytes

    def share(self) -> "BodyShare":
        """One body's share; who has it ends it."""
        return BodyShare(self)


class BodyShare:
    """What one body takes: of the room for small ones, or, once it is larger than that, of the other."""

    __slots__ = ("_bytes", "_room")

    def __init__(self, room: BodyRoom) -> None:
        self._room = room
        self._bytes = 0

    def grow(self, size: int) -> None:
        """The body is that large by now. Raises OVERLOADED."""
        room, was = self._room, self._bytes
        if size <= SMALL_BYTES:
            if size - was > room.left_small_bytes:
                raise TollbridgeError(Code.OVERLOADED, "Too many requests run here. Please retry.", retry_after_s=1)
            room.left_small_bytes -= size - was
        else:
            of_large = was if was > SMALL_BYTES else 0
            if size - of_large > room.left_bytes:
                message = "Too many large requests run here. Please retry."
                raise TollbridgeError(Code.OVERLOADED, message, retry_after_s=1)
            room.left_small_bytes += was - of_large
            room.left_bytes -= size - of_large
        self._bytes = size

    def end(self) -> None:
        """The body is gone."""
        if self._bytes > SMALL_BYTES:
            self._room.left_bytes += self._bytes
        else:
            self._room.left_small_bytes += self._bytes
        self._bytes = 0
