"""A provider of images and of jobs that has one kind of trouble below each path, and remembers what it did.

`/{trouble}/v1/images/generations` and `…/audio/speech` make at once, `…/videos` and `…/predictions` begin jobs of the
provider's own. It heeds `Idempotency-Key`, and what it has taken on it bills, whatever becomes of its answer. It has a
thread of its own; `seen` may be read from any other.
"""

import asyncio
import contextlib
import dataclasses
import json
import threading
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from tests.fakes.jobs import MP4, PNG

LATE_S = 16.0
"""How long it takes for what it makes too late."""
NEARLY_S, STEP_S = 8.4, 0.4
"""And for what it makes in nearly as long as there is: a step more for each of them."""
SOUND = bytes(4800)
MISSES = 3
"""So many questions, and so many fetches, go wrong where that passes."""
FOR_EVER_S = 3600.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Something that happened: `what` is asked, taken, billed, polled, fetched or cancelled."""

    trouble: str
    what: str


class TroubledProvider:
    """What it answers, and what it has seen."""

    def __init__(self, *, takes_s: float = 0.5) -> None:
        self._takes_s = takes_s
        self.seen: list[Seen] = []
        self._taken: dict[str, str] = {}
        self._due_at: dict[str, float] = {}
        self._billed: set[str] = set()

    def count(self, trouble: str, what: str) -> int:
        """How often that happened."""
        return self.seen.count(Seen(trouble=trouble, what=what))

    def app(self) -> web.Application:
        """Everything that it answers."""
        app = web.Application()
        base = "/{trouble}/v1"
        app.add_routes(
            [
                web.post(f"{base}/images/generations", self._image),
                web.post(f"{base}/audio/speech", self._speech),
                web.post(f"{base}/videos", self._submit),
                web.get(f"{base}/videos/{{id}}", self._video),
                web.get(f"{base}/videos/{{id}}/content", self._content),
                web.delete(f"{base}/videos/{{id}}", self._cancel),
                web.post(f"{base}/models/{{owner}}/{{name}}/predictions", self._submit),
                web.get(f"{base}/predictions/{{id}}", self._prediction),
                web.post(f"{base}/predictions/{{id}}/cancel", self._cancel),
                web.get("/{trouble}/files/{id}", self._content),
            ]
        )
        return app

    def _note(self, request: web.Request, what: str) -> int:
        """Remembers it; how often it has happened."""
        trouble = request.match_info["trouble"]
        self.seen.append(Seen(trouble=trouble, what=what))
        return self.count(trouble, what)

    def _bill(self, request: web.Request, job_id: str) -> None:
        if job_id not in self._billed:
            self._billed.add(job_id)
            self._note(request, "billed")

    async def _take(self, request: web.Request) -> str:
        """The id of what is taken on; the same for what comes again under its key."""
        body, trouble = await request.read(), _trouble(request)
        times = self._note(request, "asked")
        if trouble == "rejects":
            raise _problem(web.HTTPBadRequest, "it was refused")
        if trouble == "breaks" or (trouble == "breaks_once" and times == 1):
            raise _problem(web.HTTPInternalServerError, "it broke")
        if trouble == "hangs_at_submit":
            await asyncio.sleep(FOR_EVER_S)
        key = request.headers.get("idempotency-key") or f"{len(self._taken)} {body!r}"
        is_new = key not in self._taken
        if is_new:
            self._taken[key] = f"job-{len(self._taken)}"
            self._note(request, "taken")
            self._due_at[self._taken[key]] = _now() + self._needs_s(trouble)
        if trouble == "takes_and_breaks_once" and times == 1:
            self._bill(request, self._taken[key])
            raise _problem(web.HTTPInternalServerError, "it broke, and goes on")
        if trouble == "takes_and_hangs_once" and times == 1:
            await asyncio.sleep(FOR_EVER_S)
        if trouble == "late" and is_new:
            asyncio.get_running_loop().call_later(LATE_S, self._bill, request, self._taken[key])
        return self._taken[key]

    async def _image(self, request: web.Request) -> web.Response:
        job_id = await self._take(request)
        await asyncio.sleep(max(0.0, self._due_at[job_id] - _now()))
        if _trouble(request) == "fails":
            return web.json_response({"error": {"type": "server_error", "message": "it came to nothing"}})
        self._bill(request, job_id)
        return web.json_response({"created": 1, "data": [{"url": self._link(request, job_id)}]})

    async def _speech(self, request: web.Request) -> web.StreamResponse:
        job_id = await self._take(request)
        await asyncio.sleep(max(0.0, self._due_at[job_id] - _now()))
        trouble, response = _trouble(request), web.StreamResponse(headers={"content-type": "audio/pcm"})
        if trouble != "fails":
            self._bill(request, job_id)
        await response.prepare(request)
        await response.write(SOUND[:1000])
        if trouble == "fails":
            assert request.transport is not None
            request.transport.abort()
            return response
        if trouble == "hangs_at_download":
            await asyncio.sleep(FOR_EVER_S)
        await response.write(SOUND[1000:])
        return response

    def _needs_s(self, trouble: str) -> float:
        if trouble.startswith("nearly"):
            return NEARLY_S + STEP_S * int(trouble.removeprefix("nearly"))
        return LATE_S if trouble == "late" else self._takes_s

    async def _submit(self, request: web.Request) -> web.Response:
        job_id = await self._take(request)
        status = "queued" if request.path.endswith("/videos") else "starting"
        return web.json_response({"id": job_id, "object": "video", "status": status, "progress": 0}, status=201)

    async def _is_over(self, request: web.Request) -> bool:
        trouble, job_id = _trouble(request), request.match_info["id"]
        times = self._note(request, "polled")
        if trouble == "hangs_at_poll":
            await asyncio.sleep(FOR_EVER_S)
        if trouble == "breaks_at_poll" or (trouble == "misses" and times <= MISSES):
            raise _problem(web.HTTPInternalServerError, "it does not know")
        is_over = _now() >= self._due_at[job_id]
        if is_over and trouble != "fails":
            self._bill(request, job_id)
        return is_over

    async def _video(self, request: web.Request) -> web.Response:
        found: dict[str, Any] = {"id": request.match_info["id"], "object": "video", "status": "in_progress"}
        if await self._is_over(request):
            error = {"code": "server_error", "message": "it came to nothing"}
            failed = {"status": "failed", "error": error}
            found |= failed if _trouble(request) == "fails" else {"status": "completed", "progress": 100}
        return web.json_response(found)

    async def _prediction(self, request: web.Request) -> web.Response:
        job_id = request.match_info["id"]
        found: dict[str, Any] = {"id": job_id, "status": "processing"}
        if await self._is_over(request):
            failed = {"status": "failed", "error": "it came to nothing"}
            made = {"status": "succeeded", "output": [self._link(request, job_id)]}
            found |= failed if _trouble(request) == "fails" else made
        return web.json_response(found)

    async def _content(self, request: web.Request) -> web.Response:
        trouble, times = _trouble(request), self._note(request, "fetched")
        if trouble == "hangs_at_download":
            await asyncio.sleep(FOR_EVER_S)
        if trouble == "breaks_at_download" or (trouble == "misses" and times <= MISSES):
            raise _problem(web.HTTPInternalServerError, "it is not there")
        return web.Response(body=MP4 if "/videos/" in request.path else PNG)

    async def _cancel(self, request: web.Request) -> web.Response:
        """It says yes, and what is late goes on."""
        self._note(request, "cancelled")
        return web.json_response({})

    def _link(self, request: web.Request, job_id: str) -> str:
        return f"{request.url.origin()}/{request.match_info['trouble']}/files/{job_id}"


def _trouble(request: web.Request) -> str:
    """The path may say after a dash for whom it is."""
    return request.match_info["trouble"].partition("-")[0]


def _now() -> float:
    return asyncio.get_running_loop().time()


def _problem(kind: type[web.HTTPError], message: str) -> web.HTTPError:
    body = json.dumps({"error": {"type": "error", "message": message}})
    return kind(text=body, content_type="application/json")


class Hooks:
    """A customer's own server: hears of the ends of jobs, and has each told once more before it says that it has."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        """The event's id, and the task in it, each time."""

    def app(self) -> web.Application:
        """What it answers."""
        app = web.Application()
        app.add_routes([web.post("/hooks", self._hear)])
        return app

    async def _hear(self, request: web.Request) -> web.Response:
        event_id = request.headers["webhook-id"]
        is_new = event_id not in [known for known, _ in self.told]
        self.told.append((event_id, (await request.json())["data"]))
        return web.Response(status=500 if is_new else 204)


@contextlib.contextmanager
def in_thread(app: web.Application) -> Iterator[str]:
    """Serves it for the time of the block; its URL."""
    loop, stopping, ready = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

    async def serve() -> None:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ready.set()
        await stopping.wait()
        hanging = asyncio.all_tasks() - {asyncio.current_task()}
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(20)
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(20)
        loop.close()
