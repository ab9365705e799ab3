"""Steps that are not broken off in their middle, because what they have begun elsewhere would be known to nobody."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import TypeVar

from services.tasks.making.kind import NotWanted

T = TypeVar("T")


async def unbroken(step: Coroutine[object, object, T], *, within_s: float) -> T:
    """What a step returns or raises.

    Whoever is cancelled meanwhile, however often, waits for its end for so long, and is cancelled then; but that what
    it began is not wanted goes before, because that has to be seen to.
    """
    task = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await _ended(task, within_s=within_s)
        if task.done() and not task.cancelled() and isinstance(error := task.exception(), NotWanted):
            raise error from None
        raise
    finally:
        task.cancel()


async def _ended(task: "asyncio.Future[T]", *, within_s: float) -> None:
    clock = asyncio.get_running_loop().time
    until_s = clock() + within_s
    while not task.done() and (left_s := until_s - clock()) > 0:
        with contextlib.suppress(asyncio.CancelledError):  # the first of them is raised once the step has ended
            await asyncio.wait((task,), timeout=left_s)
