"""Questions that every replica of a service is to answer, each for itself: outside the pipe, which asks any one."""

import asyncio
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from chassis.pipe import PipeClient

R = TypeVar("R", bound=Message)


async def ask_every(
    pipe: PipeClient, method: str, request: Message, response_type: type[R], *, timeout_s: float
) -> dict[str, R | None]:
    """What each replica answers, by its address; None of one that doesn't within `timeout_s`. Asked all at once."""

    async def ask(channel: grpc.aio.Channel) -> R:
        call = channel.unary_unary(
            f"/{pipe.service}/{method}", type(request).SerializeToString, response_type.FromString
        )
        return await call(request, timeout=timeout_s, metadata=pipe.metadata)

    channels = pipe.channels
    tasks = [asyncio.create_task(ask(channel)) for channel in channels.values()]
    try:
        if tasks:  # a call that grpc.aio itself cancelled is no answer either
            await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()
    return {target: _answer(task) for target, task in zip(channels, tasks, strict=True)}


def _answer(task: "asyncio.Task[R]") -> R | None:
    if task.cancelled():
        return None
    error = task.exception()
    if error is not None and not isinstance(error, grpc.aio.AioRpcError):
        raise error
    return None if error is not None else task.result()
