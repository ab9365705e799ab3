"""A task's events: each version once, from where the client left, and no longer than this edge serves."""

from collections.abc import Callable

import msgspec

from services.edge.routes import task_events
from tollbridge.tasks.v1 import tasks_pb2 as pb


def at(version: int, status: pb.TaskStatus.ValueType = pb.TASK_STATUS_RUNNING) -> pb.Task:
    return pb.Task(id="t", version=version, status=status)


async def told(*later: pb.Task, seen: int = 0, is_draining: Callable[[], bool] = lambda: False) -> list[bytes]:
    """What a client hears of a task that is at version 2 and then gets there."""
    coming = list(later)

    async def follow(after: int) -> pb.Task:
        return coming.pop(0)

    def show(task: pb.Task) -> dict[str, object]:
        return {"version": task.version}

    stream = task_events._events(at(2), seen, follow, show, is_draining)  # type: ignore[arg-type]  # a task in short
    return [part async for part in stream]


def event(version: int) -> bytes:
    return b"id: %d\nevent: task\ndata: %s\n\n" % (version, msgspec.json.encode({"version": version}))


async def test_each_version_is_told_once_until_the_end():
    """What stays the same is a comment, so that the connection is not taken for dead."""
    heard = await told(at(3), at(3), at(5, pb.TASK_STATUS_SUCCEEDED))
    assert heard == [event(2), event(3), b": still here\n\n", event(5)]


async def test_what_a_client_has_seen_is_not_told_again():
    """The end is, whatever happened between."""
    assert await told(at(4, pb.TASK_STATUS_CANCELLED), seen=2) == [b": still here\n\n", event(4)]


async def test_an_edge_that_drains_lets_its_followers_go():
    """They come back to another, with the last id that they have."""
    assert await told(at(3), is_draining=lambda: True) == [event(2)]
