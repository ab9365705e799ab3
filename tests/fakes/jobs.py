"""A provider that works on jobs of its own, by `predictions` and as OpenAI's videos; it keeps what it is told.

A job answers `polls` times that it runs (or as often as `#polls N` in its order says), then as it was told to end. Its
files are served by itself.
"""

import contextlib
import dataclasses
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

from aiohttp import web

PNG = b"\x89PNG\r\n\x1a\n" + b"p" * 100
MP4 = b"\x00\x00\x00\x18ftypisom" + b"m" * 100


@dataclasses.dataclass
class JobsProvider:
    """What it does, and what it saw."""

    polls: int = 1
    fails: str = ""
    misses: int = 0
    """So many questions after a job are answered with 500 first."""
    forgets: bool = False
    outputs: int = 1
    seconds: str | None = None
    url: str = ""
    submitted: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    asked: list[str] = dataclasses.field(default_factory=list)
    cancelled: list[str] = dataclasses.field(default_factory=list)
    _left: dict[str, Iterator[int]] = dataclasses.field(default_factory=dict)

    def routes(self) -> list[web.RouteDef]:
        """What it answers."""
        return [
            web.post("/v1/models/{owner}/{name}/predictions", self._submit_prediction),
            web.get("/v1/predictions/{id}", self._prediction),
            web.post("/v1/predictions/{id}/cancel", self._cancel),
            web.post("/v1/videos", self._submit_video),
            web.get("/v1/videos/{id}", self._video),
            web.get("/v1/videos/{id}/content", self._content),
            web.delete("/v1/videos/{id}", self._cancel),
            web.get("/files/{number}", self._file),
        ]

    def _begin(self, body: dict[str, Any]) -> str:
        self.submitted.append(body)
        job_id = f"job-{len(self.submitted)}"
        told = re.search(r"#polls (\d+)", json.dumps(body))
        self._left[job_id] = iter(range(int(told[1]) if told else self.polls))
        return job_id

    def _is_over(self, request: web.Request) -> bool:
        job_id = request.match_info["id"]
        self.asked.append(job_id)
        if self.forgets or job_id not in self._left:
            raise web.HTTPNotFound
        if self.misses:
            self.misses -= 1
            raise web.HTTPInternalServerError
        return next(self._left[job_id], None) is None

    async def _submit_prediction(self, request: web.Request) -> web.Response:
        body = await request.json()
        return web.json_response({"id": self._begin(body), "status": "starting"}, status=201)

    async def _prediction(self, request: web.Request) -> web.Response:
        found: dict[str, Any] = {"id": request.match_info["id"], "status": "processing"}
        if self._is_over(request):
            links = [f"{request.url.origin()}/files/{number}" for number in range(self.outputs)]
            ended = (
                {"status": "failed", "error": self.fails} if self.fails else {"status": "succeeded", "output": links}
            )
            found |= ended
        return web.json_response(found)

    async def _cancel(self, request: web.Request) -> web.Response:
        self.cancelled.append(request.match_info["id"])
        if request.match_info["id"] not in self._left:
            raise web.HTTPNotFound
        return web.json_response({})

    async def _submit_video(self, request: web.Request) -> web.Response:
        is_form = request.content_type.startswith("multipart/")
        body = dict(await request.post()) if is_form else json.loads(await request.read())
        return web.json_response({"id": self._begin(body), "object": "video", "status": "queued", "progress": 0})

    async def _video(self, request: web.Request) -> web.Response:
        found: dict[str, Any] = {"id": request.match_info["id"], "object": "video", "status": "in_progress"}
        if self._is_over(request):
            found |= {"status": "completed", "progress": 100, "seconds": self.seconds}
            if self.fails:
                found |= {"status": "failed", "error": {"code": self.fails, "message": "it was refused"}}
        else:
            found["progress"] = 50
        return web.json_response(found)

    async def _content(self, _: web.Request) -> web.Response:
        return web.Response(body=MP4, content_type="text/html")

    async def _file(self, _: web.Request) -> web.Response:
        return web.Response(body=PNG, content_type="text/html")


@contextlib.asynccontextmanager
async def jobs_provider(**told: Any) -> AsyncIterator[JobsProvider]:
    """Runs one for the time of the block."""
    provider = JobsProvider(**told)
    app = web.Application()
    app.add_routes(provider.routes())
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    provider.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield provider
    finally:
        await runner.cleanup()
