"""Links in answers are absolute: below the configured address, or as the request came in."""

from pathlib import Path

import httpx
import pytest

from chassis.config import ConfigError, read
from chassis.errors import Code, TollbridgeError
from chassis.telemetry import Tracer
from services.edge.app import EdgeApp, new_fastapi
from services.edge.config import EdgeConfig, parse
from services.edge.http.json_http import Caller
from services.edge.routes import tasks
from tests.unit.edge.claim_desk import NOBODY
from tollbridge.tasks.v1 import tasks_pb2


class OneTask:
    """The tasks service, with one task that has one file."""

    async def call(self, _method: str, request: tasks_pb2.GetTaskRequest, *_: object, **__: object):
        result = tasks_pb2.Result(file_id="f1", content_type="image/png", bytes=1)
        task = tasks_pb2.Task(id=request.task_id, status=tasks_pb2.TASK_STATUS_SUCCEEDED, results=[result])
        return tasks_pb2.GetTaskResponse(task=task)


async def identify(_: object) -> Caller:
    return Caller(customer_id="c", key_id="k", models=frozenset())


def config(tmp_path: Path, text: str) -> EdgeConfig:
    path = tmp_path / "tollbridge.yaml"
    path.write_text("surfaces: [{prefix: /v1}, {prefix: /api/v2}]\n" + text)
    return parse(read(path), {})


def edge(config: EdgeConfig) -> EdgeApp:
    public = new_fastapi()
    made = tasks.routes(tasks=OneTask(), claims=NOBODY, limits=NOBODY, catalogue=NOBODY, identify=identify)  # type: ignore[arg-type]  # stand-ins
    public.include_router(made)
    tracer = Tracer(service="edge", replica="0", otlp_endpoint="")
    return EdgeApp(config=config, public=public, own=new_fastapi(), hot={}, tracer=tracer)


async def link_of(app: EdgeApp, *, path: str = "/v1/tasks/t1") -> str:
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]  # a bare ASGI callable
    async with httpx.AsyncClient(transport=transport, base_url="http://inside:8080") as client:
        return (await client.get(path)).json()["result"]["data"][0]["url"]


@pytest.mark.parametrize("url", ["https://api.example.com", "https://api.example.com/"])
async def test_links_begin_with_public_url_when_it_is_set(tmp_path: Path, url: str) -> None:
    """Behind a proxy the request's own host is not the client's; every surface keeps its prefix."""
    app = edge(config(tmp_path, f"public_url: {url}"))
    assert await link_of(app) == "https://api.example.com/v1/files/f1/content"
    assert await link_of(app, path="/api/v2/tasks/t1") == "https://api.example.com/api/v2/files/f1/content"


async def test_links_are_built_from_the_request_without_public_url(tmp_path: Path) -> None:
    """As the client called us."""
    assert await link_of(edge(config(tmp_path, ""))) == "http://inside:8080/v1/files/f1/content"


async def test_a_changed_public_url_takes_effect_at_the_next_request(tmp_path: Path) -> None:
    """The config file is followed."""
    app = edge(config(tmp_path, ""))
    app.config = config(tmp_path, "public_url: https://new.example.com/gate")
    assert await link_of(app) == "https://new.example.com/gate/v1/files/f1/content"


@pytest.mark.parametrize("url", ["api.example.com", "ftp://x", "https://", "https://x/?a=1"])
def test_what_is_no_address_is_refused(tmp_path: Path, url: str) -> None:
    """With its key, before anybody gets a broken link."""
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, f"public_url: {url}")
    assert caught.value.key == "public_url"


def test_who_has_no_money_is_told_where_to_add_some(tmp_path: Path) -> None:
    """`billing.top_up_url`, when it is set; other errors don't mention it."""
    found = config(tmp_path, "billing: {top_up_url: https://example.com/billing}").surfaces.find("/v1/x")
    assert found is not None
    dialect = found[0].dialect
    assert (
        b"https://example.com/billing"
        in dialect.render_error(TollbridgeError(Code.INSUFFICIENT_CREDITS, "No money."), request_id="r").body
    )
    assert b"https" not in dialect.render_error(TollbridgeError(Code.NOT_FOUND, "None."), request_id="r").body
