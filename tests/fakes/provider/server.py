"""The provider over HTTP: finds the script, plays it, and logs what really left."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.fakes.jobs import JobsProvider
from tests.fakes.provider import anthropic_shapes, openai_shapes
from tests.fakes.provider.log import ProviderLog
from tests.fakes.provider.script import Script, read_script

MODELS = ("upstream-alpha", "upstream-claudius")
MAX_BODY_BYTES = 64 << 20
HANG_AT_MOST_S = 3600.0

Events = Iterator[tuple[bytes, bool]]


class Broken(Exception):
    """The script says that the connection breaks here."""


class Answering:
    """One request's two lines in the log."""

    def __init__(self, *, log: ProviderLog, protocol: str, request: web.Request, body: dict[str, Any]) -> None:
        self._log = log
        self.id = log.next_id()
        self.model = str(body.get("model", ""))
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        self.key = request.headers.get("x-api-key", bearer)
        self.chunks_sent = 0
        self.arrived = {
            "id": self.id,
            "protocol": protocol,
            "path": request.path,
            "key": self.key,
            "model": self.model,
            "stream": bool(body.get("stream")),
            "request_id": request.headers.get("x-request-id"),
            "traceparent": request.headers.get("traceparent"),
            "user": body.get("user"),
            "metadata": body.get("metadata"),
            "max_tokens": body.get("max_tokens", body.get("max_completion_tokens")),
        }
        log.write({"event": "arrived", **self.arrived})

    def ended(self, script: Script, *, status: int, cut: str | None, images: int = 0) -> None:
        """Says how it ended; `cut` is None for an answer that left whole."""
        self._log.write(
            {
                "event": "ended",
                **{name: self.arrived[name] for name in ("id", "protocol", "model", "stream", "request_id")},
                "status": status,
                "finished": cut is None,
                "cut": cut,
                "chunks_sent": self.chunks_sent,
                "chunks": script.chunks,
                "usage_sent": cut is None and not script.no_usage and script.usage is None,
                "images": images,
                "tokens": tokens(script, protocol=str(self.arrived["protocol"])),
            }
        )


def tokens(script: Script, *, protocol: str) -> dict[str, int]:
    """What the whole answer takes, each token in one class."""
    inside = script.cached_tokens if protocol == "openai" else 0
    return {
        "input": script.input_tokens - inside,
        "cached_input": script.cached_tokens,
        "cache_write": script.cache_write_tokens if protocol == "anthropic" else 0,
        "output": script.output_tokens,
    }


class FakeProvider:
    """The handlers; each plays its request's script."""

    def __init__(self, log: ProviderLog) -> None:
        self._log = log
        self._refused: Counter[str] = Counter()

    def app(self) -> web.Application:
        """The application, mounted with and without `/v1`, as base URLs differ."""
        application = web.Application(client_max_size=MAX_BODY_BYTES)
        for prefix in ("/v1", ""):
            application.router.add_post(f"{prefix}/chat/completions", self.chat)
            application.router.add_post(f"{prefix}/completions", self.completion)
            application.router.add_post(f"{prefix}/images/generations", self.images)
            application.router.add_post(f"{prefix}/messages", self.messages)
            application.router.add_post(f"{prefix}/messages/count_tokens", self.count_tokens)
            application.router.add_get(f"{prefix}/models", self.models)
        application.add_routes(JobsProvider().routes())
        return application

    async def models(self, _request: web.Request) -> web.Response:
        """OpenAI's list."""
        return web.json_response(openai_shapes.models(MODELS))

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """OpenAI's chat completions."""
        body = await request.json()
        answering = Answering(log=self._log, protocol="openai", request=request, body=body)
        script = read_script(body, key=answering.key)
        answer_id = f"chatcmpl-{answering.id}"
        if not body.get("stream"):
            whole = openai_shapes.whole(script, answer_id=answer_id, model=answering.model, body=body)
            return await self._whole(request, answering, script, whole)
        made = openai_shapes.chunks(script, answer_id=answer_id, model=answering.model, body=body)
        return await self._stream(request, answering, script, _openai_frames(script, made))

    async def completion(self, request: web.Request) -> web.StreamResponse:
        """OpenAI's completions of old."""
        body = await request.json()
        answering = Answering(log=self._log, protocol="openai", request=request, body=body)
        script = read_script(body, key=answering.key)
        answer_id = f"cmpl-{answering.id}"
        if not body.get("stream"):
            choices = int(body.get("n", 1)) * (len(body["prompt"]) if isinstance(body["prompt"], list) else 1)
            made = openai_shapes.completion(script, answer_id=answer_id, model=answering.model, choices=choices)
            return await self._whole(request, answering, script, made)
        chat = openai_shapes.chunks(script, answer_id=answer_id, model=answering.model, body=body)
        frames = _openai_frames(script, openai_shapes.completion_chunks(chat))
        return await self._stream(request, answering, script, frames)

    async def messages(self, request: web.Request) -> web.StreamResponse:
        """Anthropic's messages."""
        body = await request.json()
        answering = Answering(log=self._log, protocol="anthropic", request=request, body=body)
        script = read_script(body, key=answering.key)
        answer_id = f"msg_{answering.id}"
        if not body.get("stream"):
            whole = anthropic_shapes.whole(script, answer_id=answer_id, model=answering.model)
            return await self._whole(request, answering, script, whole)
        made = anthropic_shapes.events(script, answer_id=answer_id, model=answering.model)
        return await self._stream(request, answering, script, _anthropic_frames(script, made))

    async def count_tokens(self, request: web.Request) -> web.Response:
        """Anthropic's count of a request's input."""
        return web.json_response({"input_tokens": read_script(await request.json()).input_tokens})

    async def images(self, request: web.Request) -> web.StreamResponse:
        """OpenAI's images."""
        body = await request.json()
        answering = Answering(log=self._log, protocol="openai", request=request, body=body)
        count = int(body.get("n") or 1)
        made = openai_shapes.images(count=count)
        return await self._whole(request, answering, read_script(body, key=answering.key), made, images=count)

    async def _whole(
        self,
        request: web.Request,
        answering: Answering,
        script: Script,
        body: dict[str, Any],
        *,
        images: int = 0,
    ) -> web.StreamResponse:
        if await self._refuses(request, script):
            return await self._refuse(answering, script)
        try:
            await asyncio.sleep((script.first_byte_ms + script.gap_ms * script.chunks) / 1000)
            await self._maybe_hang(script, sent=script.chunks)
            if script.fail_after_chunks is not None:
                raise Broken
            data = b'{"id": "broken", ' if script.malformed else json.dumps(body).encode()
            response = web.Response(body=data, content_type="application/json", headers=_huge(script))
            await response.prepare(request)
            await response.write_eof()
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError
        except Broken:
            answering.ended(script, status=200, cut="script", images=images)
            _abort(request)
            return web.Response()
        except (ConnectionResetError, asyncio.CancelledError):
            answering.ended(script, status=200, cut="client", images=images)
            raise
        answering.chunks_sent = script.chunks
        answering.ended(script, status=200, cut="script" if script.malformed else None, images=images)
        return response

    async def _stream(
        self, request: web.Request, answering: Answering, script: Script, frames: Events
    ) -> web.StreamResponse:
        if await self._refuses(request, script):
            return await self._refuse(answering, script)
        headers = {"content-type": "text/event-stream", "cache-control": "no-cache"} | _huge(script)
        response = web.StreamResponse(headers=headers)
        cut: str | None = "client"
        try:
            await asyncio.sleep(script.first_byte_ms / 1000)
            await response.prepare(request)
            for frame, is_piece in frames:
                if is_piece:
                    await self._before_piece(script, sent=answering.chunks_sent)
                await response.write(frame)
                answering.chunks_sent += is_piece
            cut = "script" if script.malformed or script.error_after_chunks is not None else None
            await response.write_eof()
        except Broken:
            answering.ended(script, status=200, cut="script")
            _abort(request)
            return response
        except (ConnectionResetError, asyncio.CancelledError) as error:
            answering.ended(script, status=200, cut=cut)  # whoever has the end mark may leave before the last write
            if isinstance(error, ConnectionResetError):
                return response
            raise
        answering.ended(script, status=200, cut=cut)
        return response

    async def _before_piece(self, script: Script, *, sent: int) -> None:
        if sent == script.fail_after_chunks:
            raise Broken
        await self._maybe_hang(script, sent=sent)
        if sent and script.gap_ms:
            await asyncio.sleep(script.gap_ms / 1000)

    async def _maybe_hang(self, script: Script, *, sent: int) -> None:
        if script.hang_after_chunks is not None and sent >= script.hang_after_chunks:
            await asyncio.sleep(HANG_AT_MOST_S)

    async def _refuses(self, request: web.Request, script: Script) -> bool:
        if script.status == 200 or script.status_times is None:
            return script.status != 200
        text = await request.text()
        self._refused[text] += 1
        return self._refused[text] <= script.status_times

    async def _refuse(self, answering: Answering, script: Script) -> web.Response:
        await asyncio.sleep(script.first_byte_ms / 1000)
        shapes = anthropic_shapes if answering.arrived["protocol"] == "anthropic" else openai_shapes
        headers = {} if script.retry_after is None else {"retry-after": f"{script.retry_after:g}"}
        answering.ended(script, status=script.status, cut="refused")
        return web.json_response(shapes.error(script.status, script.message), status=script.status, headers=headers)


def _openai_frames(script: Script, chunks: Iterator[dict[str, Any]]) -> Events:
    pieces = 0
    end = b"data: [DONE]\n\n"
    for chunk in chunks:
        if script.usage_late and not chunk["choices"] and end:
            yield end, False
            end = b""
        is_piece = bool(chunk["choices"]) and _is_piece(chunk["choices"][0])
        if is_piece and pieces == script.error_after_chunks:
            yield f"data: {json.dumps(openai_shapes.error(500, script.message))}\n\n".encode(), False
            return
        text = '{"id": "brok' if script.malformed and pieces == 1 and is_piece else json.dumps(chunk)
        yield f"data: {text}\n\n".encode(), is_piece
        pieces += is_piece
    if end:
        yield end, False


def _is_piece(choice: dict[str, Any]) -> bool:
    """Whether it is one of the script's chunks; other choices than the first say the same again."""
    delta = choice.get("delta")
    if choice["index"]:
        return False
    return bool(choice["text"]) if delta is None else "content" in delta and "role" not in delta


def _anthropic_frames(script: Script, events: Iterator[dict[str, Any]]) -> Events:
    pieces = 0
    for event in events:
        is_piece = event["type"] == "content_block_delta" and event["delta"]["type"] == "text_delta"
        if is_piece and pieces == script.error_after_chunks:
            data = json.dumps(anthropic_shapes.error(529, script.message))
            yield f"event: error\ndata: {data}\n\n".encode(), False
            return
        text = '{"type": "brok' if script.malformed and pieces == 1 and is_piece else json.dumps(event)
        yield f"event: {event['type']}\ndata: {text}\n\n".encode(), is_piece
        pieces += is_piece


def _huge(script: Script) -> dict[str, str]:
    return {"x-huge": "h" * script.header_bytes} if script.header_bytes else {}


def _abort(request: web.Request) -> None:
    """Resets the connection: no end of the chunked body, as when a provider's process dies."""
    if request.transport is not None:
        request.transport.abort()


async def serve(*, port: int, log: ProviderLog, ready: Path | None, host: str = "127.0.0.1") -> None:
    """Serves until cancelled; writes `{"port": …}` to `ready`, whole or not at all, when it listens."""
    # handler_cancellation: a caller that leaves ends its handler at once, and the log says when.
    runner = web.AppRunner(FakeProvider(log).app(), handler_cancellation=True, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=1024)
        await site.start()
        bound = runner.addresses[0][1]
        if ready is not None:
            new = ready.with_name(ready.name + ".new")
            new.write_text(json.dumps({"port": bound}))
            new.rename(ready)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
