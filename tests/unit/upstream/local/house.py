"""The HTTP of local models with models that are made up: what is promised of it holds whoever answers."""

import asyncio
import contextlib
import dataclasses
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from aiohttp import web

from upstream.local import chat, transcription
from upstream.local.http_server import LocalModels, serve

KEY = "llamas-own-key"


@dataclasses.dataclass
class House:
    """A running server and what its models were asked."""

    url: str
    client: aiohttp.ClientSession
    asked: list[dict[str, Any]]
    gone: asyncio.Event
    """Set when llama.cpp sees its client leave."""
    slow: threading.Event
    """Until it is set, transcriptions don't end."""
    loads: list[str]

    async def post(self, path: str, body: object) -> tuple[int, Any]:
        """Status and JSON."""
        async with self.client.post(self.url + path, json=body) as reply:
            return reply.status, await reply.json()

    async def transcribe(self, **fields: str) -> tuple[int, str]:
        """Status and body, for a made-up sound."""
        form = aiohttp.FormData()
        form.add_field("file", b"a sound", filename="a.wav")
        for name, value in fields.items():
            form.add_field(name, value)
        async with self.client.post(f"{self.url}/audio/transcriptions", data=form) as reply:
            return reply.status, await reply.text()


@contextlib.asynccontextmanager
async def house() -> AsyncIterator[House]:
    """Runs it for the time of the block."""
    asked: list[dict[str, Any]] = []
    gone, slow, loads = asyncio.Event(), threading.Event(), list[str]()
    slow.set()

    async def completions(request: web.Request) -> web.StreamResponse:
        assert request.headers["authorization"] == f"Bearer {KEY}"
        fields = await request.json()
        asked.append(fields)
        if not fields.get("stream"):
            return web.json_response({"id": "1", "timings": {"n": 1}, "choices": []})
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        try:
            await answer.write(b"data: first\n\n")
            if "for ever" in json.dumps(fields["messages"]):
                await asyncio.sleep(60)
            await answer.write(b"data: [DONE]\n\n")
        except asyncio.CancelledError:
            gone.set()
            raise
        return answer

    llama_app = web.Application()
    llama_app.add_routes([web.post("/v1/chat/completions", completions)])
    llama = web.AppRunner(llama_app, handler_cancellation=True)
    await llama.setup()
    site = web.TCPSite(llama, "127.0.0.1", 0)
    await site.start()

    def load_llama() -> chat.Llama:
        loads.append("llama")
        return chat.Llama(url=f"http://127.0.0.1:{llama.addresses[0][1]}", key=KEY, owner=None)

    def listen(file: bytes) -> transcription.Heard:
        slow.wait(20)
        if file != b"a sound":
            raise RuntimeError("not a sound")
        lines = [
            transcription.Line(start_s=0.5, end_s=3661.25, text="Hello."),
            transcription.Line(start_s=4, end_s=5, text="You."),
        ]
        return transcription.Heard(seconds=5.2, lines=lines)

    def embed(texts: list[str]) -> tuple[list[list[float]], list[int]]:
        return [[3.0, 4.0] + [1.0] * 254 for _ in texts], [len(text.split()) for text in texts]

    models = LocalModels(
        load_llama=load_llama,
        load_embedder=lambda: embed,
        load_listener=lambda: listen,
    )
    runner = await serve(models, bind="127.0.0.1:0")
    async with aiohttp.ClientSession() as client:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield House(url=url, client=client, asked=asked, gone=gone, slow=slow, loads=loads)
    slow.set()
    await runner.cleanup()
    await llama.cleanup()
