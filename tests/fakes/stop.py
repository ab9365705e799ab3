"""A stop of a process, as far as its event loop sees it."""

import asyncio
import socket
import threading
import time


class Stop:
    """For `with`, in another thread than the loop's: meanwhile, and for `seconds` after, the loop does nothing.

    A process that is stopped (SIGSTOP, a machine asleep, no CPU) mostly stands in its look at what came: uvloop looks
    at its timers next, and then reads. One that was busy (`looking` false) reads first.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, seconds: float = 0.4) -> None:
        self.loop = loop
        self.looking = True
        self._seconds = seconds
        self._begun, self._over = threading.Event(), threading.Event()

    def __enter__(self) -> None:
        self.loop.call_soon_threadsafe(self._look if self.looking else self._stand_still)
        assert self._begun.wait(5)

    def __exit__(self, *_: object) -> None:
        time.sleep(self._seconds)  # what is tested is the passing of time
        self._over.set()

    def _look(self) -> None:
        told, telling = socket.socketpair()

        def look() -> None:
            self.loop.remove_reader(told)
            told.close()
            telling.close()
            self._stand_still()

        self.loop.add_reader(told, look)
        telling.send(b"now")

    def _stand_still(self) -> None:
        self._begun.set()
        assert self._over.wait(5)
