"""A model that is loaded when it is first asked for, by one of those who ask, and then kept."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """What `load` makes, in a thread. After a failure the next who asks tries again."""

    def __init__(self, load: Callable[[], T]) -> None:
        self._load = load
        self._lock = asyncio.Lock()
        self._found: T | None = None

    async def get(self) -> T:
        """Raises what `load` raises."""
        async with self._lock:
            if self._found is None:
                self._found = await asyncio.to_thread(self._load)
            return self._found
