"""OpenAI's HTTP in front of the models and the renderer of images. Loopback only, without a key."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import aiohttp
import msgspec
import structlog
from aiohttp import web

from upstream.local import chat, embedding, pictures, speech, transcription
from upstream.local.failure import Refused
from upstream.local.installed import CHAT, EMBEDDING, ESPEAK, IMAGE, PIPER, TRANSCRIPTION, espeak_path, has_piper
from upstream.local.once import Once
from upstream.local.turns import Turns
from upstream.sound_encoder import CONTENT_TYPES

MAX_BODY_BYTES = transcription.MAX_FILE_BYTES + (1 << 20)
MAX_FIELD_BYTES = 64 << 10
MAX_FIELDS = 32
ANSWER_WITHIN_S = 600.0
RETRY_AFTER_S = 2

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class LocalModels:
    """The models, each loaded when it is first asked for, and who uses them."""

    def __init__(
        self,
        *,
        load_llama: Callable[[], chat.Llama],
        load_embedder: Callable[[], embedding.Embedder],
        load_listener: Callable[[], transcription.Listener],
    ) -> None:
        self._llama = Once(load_llama)
        self._embedder = Once(load_embedder)
        self._listener = Once(load_listener)
        self._chats = Turns(at_once=chat.AT_ONCE, waiting=chat.WAITING)
        self._embeddings = Turns(at_once=1, waiting=embedding.WAITING)
        self._transcriptions = Turns(at_once=1, waiting=transcription.WAITING)
        self._images = Turns(at_once=1, waiting=pictures.WAITING)
        self._speeches = Turns(at_once=speech.AT_ONCE, waiting=speech.WAITING)

    def app(self) -> web.Application:
        """What answers."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_refusals])
        app.add_routes(
            [
                web.get("/readyz", _ready),
                web.get("/v1/models", _models),
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/embeddings", self._embed),
                web.post("/v1/audio/transcriptions", self._transcribe),
                web.post("/v1/images/generations", self._draw),
                web.post("/v1/audio/speech", self._speak),
            ]
        )
        return app

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        fields = chat.checked(await request.read())
        async with self._chats.turn():
            llama = await self._llama.get()
            headers = {"authorization": f"Bearer {llama.key}"}
            timeout = aiohttp.ClientTimeout(total=ANSWER_WITHIN_S)
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(f"{llama.url}/v1/chat/completions", json=fields, headers=headers) as reply,
            ):
                return await _relayed(request, reply)

    async def _embed(self, request: web.Request) -> web.StreamResponse:
        wanted = embedding.checked(await request.read())
        embed = await self._embedder.get()
        return web.json_response(await self._embeddings.in_thread(lambda: embedding.answer(wanted, embed)))

    async def _transcribe(self, request: web.Request) -> web.StreamResponse:
        file, fields = await _form(request)
        wanted = transcription.check_fields(fields)
        listen = await self._listener.get()
        found = transcription.rendered(await self._transcriptions.in_thread(lambda: listen(file)), wanted)
        return web.Response(text=found) if isinstance(found, str) else web.json_response(found)

    async def _draw(self, request: web.Request) -> web.StreamResponse:
        wanted = pictures.checked(await request.read())
        created = int(time.time())
        return web.json_response(await self._images.in_thread(lambda: pictures.answer(wanted, created=created)))

    async def _speak(self, request: web.Request) -> web.StreamResponse:
        wanted = speech.checked(await request.read())
        async with self._speeches.turn(), contextlib.aclosing(speech.spoken(wanted)) as pieces:
            first = await anext(pieces)
            kind = CONTENT_TYPES[wanted.response_format]
            answer = web.StreamResponse(headers={"content-type": kind})
            await answer.prepare(request)
            await answer.write(first)
            try:
                async for piece in pieces:
                    await answer.write(piece)
            except RuntimeError as error:
                structlog.get_logger().error("local_model_failed", path=request.path, exc_info=error)
                if request.transport is not None:
                    request.transport.abort()  # what was sent must not look whole
                return answer
            await answer.write_eof()
            return answer


async def serve(models: LocalModels, *, bind: str) -> web.AppRunner:
    """Listens; the caller ends it by `cleanup`. A client that leaves cancels its request."""
    runner = web.AppRunner(models.app(), handler_cancellation=True, access_log=None)
    await runner.setup()
    host, _, port = bind.rpartition(":")
    await web.TCPSite(runner, host, int(port)).start()
    return runner


async def _relayed(request: web.Request, reply: aiohttp.ClientResponse) -> web.StreamResponse:
    """llama.cpp's answer, a stream as it comes; a whole one without what it says of its own speed."""
    if not reply.content_type.startswith("text/event-stream"):
        found = msgspec.json.decode(await reply.read(), type=dict[str, object])
        found.pop("timings", None)
        return web.json_response(body=msgspec.json.encode(found), status=reply.status)
    answer = web.StreamResponse(status=reply.status, headers={"content-type": "text/event-stream"})
    await answer.prepare(request)
    async for part in reply.content.iter_any():
        await answer.write(part)
    await answer.write_eof()
    return answer


async def _form(request: web.Request) -> tuple[bytes, dict[str, str]]:
    """The file and the other fields of a form. Raises Refused."""
    if not request.content_type.startswith("multipart/"):
        raise Refused(400, "The body is no form.")
    file, fields = b"", dict[str, str]()
    try:
        reader = await request.multipart()
        while (part := await reader.next()) is not None:
            if not isinstance(part, aiohttp.BodyPartReader) or len(fields) >= MAX_FIELDS:
                raise Refused(400, "The form is not one that can be read.")
            limit = transcription.MAX_FILE_BYTES if part.name == "file" else MAX_FIELD_BYTES
            value = await _bounded(part, limit)
            if part.name == "file":
                file = value
            else:
                fields[part.name or ""] = value.decode("utf-8", "replace")
    except (ValueError, AssertionError):  # what aiohttp raises for a form that isn't one
        raise Refused(400, "The form is not one that can be read.") from None
    if not file:
        raise Refused(400, "file is required.", "file")
    return file, fields


async def _bounded(part: aiohttp.BodyPartReader, limit: int) -> bytes:
    read = bytearray()
    while chunk := await part.read_chunk(1 << 16):
        read += chunk
        if len(read) > limit:
            raise Refused(413, f"{part.name} is larger than {limit} bytes.", part.name)
    return bytes(read)


async def _ready(_: web.Request) -> web.StreamResponse:
    return web.Response(text="ok\n")


async def _models(_: web.Request) -> web.StreamResponse:
    names = [CHAT, EMBEDDING, TRANSCRIPTION, IMAGE]
    names += [name for name, is_there in ((PIPER, has_piper()), (ESPEAK, espeak_path() is not None)) if is_there]
    rows = [{"id": name, "object": "model", "owned_by": "local"} for name in names]
    return web.json_response({"object": "list", "data": rows})


@web.middleware
async def _refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers every failure in OpenAI's shape."""
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            return await handler(request)
    except Refused as refused:
        headers = {"retry-after": str(RETRY_AFTER_S)} if refused.status == 429 else None
        return web.json_response(refused.body(), status=refused.status, headers=headers)
    except web.HTTPException as error:
        return web.json_response(Refused(error.status, error.reason).body(), status=error.status)
    except Exception as error:  # a model's own failure is the client's answer, and the log's
        structlog.get_logger().error("local_model_failed", path=request.path, exc_info=error)
        with contextlib.suppress(RuntimeError):
            return web.json_response(Refused(500, "The local model failed.").body(), status=500)
        raise
