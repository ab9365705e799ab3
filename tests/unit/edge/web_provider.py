"""A small provider over HTTP that breaks as told, and the pieces of OpenAI's stream."""

import asyncio
import json
from collections.abc import Awaitable, Callable

from aiohttp import web


class Provider:
    """A small provider over HTTP: answers each call with the next of its handlers, the last one for ever.

    `disconnects`: how many of its answers were closed by their reader before they ended.
    """

    def __init__(self) -> None:
        self.handlers: list[Callable[[web.Request], Awaitable[web.StreamResponse]]] = []
        self.calls: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.disconnects = 0
        self.base_url = ""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.calls.append(await request.json())
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        handler = self.handlers[min(len(self.calls), len(self.handlers)) - 1]
        try:
            return await handler(request)
        except asyncio.CancelledError:
            self.disconnects += 1
            raise


def status(code: int, message: str = "no", **headers):
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": message}}, status=code, headers=headers)

    return answer


def whole(body: dict):
    """A whole answer."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(body)

    return answer


def chunk(text: str | None = None, **fields) -> bytes:
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": fields.pop("finish", None)}
    body = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "theirs", "choices": [choice]}
    return b"data: " + json.dumps({**body, **fields}).encode() + b"\n\n"


def usage_chunk(prompt: int, completion: int) -> bytes:
    return chunk(usage={"prompt_tokens": prompt, "completion_tokens": completion}, choices=[])


def stream(*pieces: bytes | float | asyncio.Event, breaks: bool = False):
    """Sends bytes, waits seconds, waits for events; then ends, or breaks the connection."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            if isinstance(piece, bytes):
                await response.write(piece)
            elif isinstance(piece, asyncio.Event):
                await piece.wait()
            else:
                await asyncio.sleep(piece)
        if breaks:
            assert request.transport is not None
            request.transport.abort()
        return response

    return answer


def ending(prompt: int, completion: int) -> tuple[bytes, ...]:
    return (chunk(finish="stop"), usage_chunk(prompt, completion), b"data: [DONE]\n\n")
