"""Parts of files over HTTP: what a player seeks, and what a download that broke off still needs."""

from collections.abc import AsyncIterator

import httpx
import pytest

from chassis.telemetry import Tracer
from services.edge.app import EdgeApp, new_fastapi
from services.edge.config import without_file
from services.edge.http.json_http import Caller
from services.edge.http.ranges import Part, asked_part
from services.edge.routes import tasks
from tests.unit.edge.claim_desk import NOBODY
from tollbridge.tasks.v1 import tasks_pb2

FILE = bytes(index % 251 for index in range(1_500_000))
TAG = '"f1"'
PATHS = ("/v1/files/f1/content", "/v1/videos/01934f4e-0000-7000-8000-000000000001/content")


class OneFile:
    """The tasks service, with one video; what was read of it."""

    def __init__(self) -> None:
        self.read_bytes = 0

    async def call(self, _: str, request: tasks_pb2.GetTaskRequest, *__: object, **___: object):
        result = tasks_pb2.Result(file_id="f1", content_type="video/mp4", bytes=len(FILE))
        status = tasks_pb2.TASK_STATUS_SUCCEEDED
        return tasks_pb2.GetTaskResponse(
            task=tasks_pb2.Task(id=request.task_id, kind="video", status=status, results=[result])
        )

    async def stream(
        self, _: str, request: tasks_pb2.GetResultRequest, *__: object, **___: object
    ) -> AsyncIterator[tasks_pb2.GetResultResponse]:
        start = request.offset if request.offset >= 0 else max(0, len(FILE) + request.offset)
        data = FILE[start : start + (request.length or len(FILE))]
        self.read_bytes += len(data)
        yield tasks_pb2.GetResultResponse(content_type="video/mp4", size=len(FILE), data=data)


async def identify(_: object) -> Caller:
    return Caller(customer_id="c", key_id="k", models=frozenset())


@pytest.fixture
def store() -> OneFile:
    return OneFile()


@pytest.fixture
async def client(store: OneFile) -> AsyncIterator[httpx.AsyncClient]:
    public = new_fastapi()
    made = tasks.routes(tasks=store, claims=NOBODY, limits=NOBODY, catalogue=NOBODY, identify=identify)  # type: ignore[arg-type]  # stand-ins
    public.include_router(made)
    tracer = Tracer(service="edge", replica="0", otlp_endpoint="")
    app = EdgeApp(config=without_file(), public=public, own=new_fastapi(), hot={}, tracer=tracer)
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]  # a bare ASGI callable
    async with httpx.AsyncClient(transport=transport, base_url="http://edge") as made_client:
        yield made_client


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1000-1999", 1000, 2000),
        ("bytes=1400000-", 1_400_000, 1_500_000),
        ("bytes=-5", 1_499_995, 1_500_000),
        ("bytes=-9999999", 0, 1_500_000),
        ("bytes=200-9999999", 200, 1_500_000),
        ("Bytes = 3-4", 3, 5),
    ],
)
async def test_a_part_comes_as_a_part(client: httpx.AsyncClient, path: str, asked: str, start: int, end: int):
    """With its place in the whole."""
    answer = await client.get(path, headers={"range": asked})
    assert answer.status_code == 206
    assert answer.content == FILE[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(FILE)}"
    assert answer.headers["content-length"] == str(end - start)
    assert (answer.headers["content-type"], answer.headers["etag"]) == ("video/mp4", TAG)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"range": "bytes=0-1,5-9"},
        {"range": "lines=1-2"},
        {"range": "bytes=-"},
        {"range": "bytes=5-4"},
        {"range": b"bytes=\xb2-"},
        {"range": "bytes=0-1", "if-range": '"another"'},
        {"range": "bytes=0-1", "if-range": "Sat, 21 Nov 2026 10:00:00 GMT"},
    ],
)
async def test_everything_else_brings_the_whole(client: httpx.AsyncClient, headers: dict[str, str | bytes]):
    """Which says that there are parts."""
    answer = await client.get(PATHS[0], headers=headers)
    assert (answer.status_code, answer.content) == (200, FILE)
    assert answer.headers["content-length"] == str(len(FILE))
    assert answer.headers["accept-ranges"] == "bytes"
    assert "content-range" not in answer.headers


async def test_a_download_goes_on_where_it_broke_off(client: httpx.AsyncClient):
    """By the tag of what there is of it."""
    answer = await client.get(PATHS[0], headers={"range": "bytes=7-", "if-range": TAG})
    assert (answer.status_code, answer.content) == (206, FILE[7:])


@pytest.mark.parametrize("asked", ["bytes=1500000-", "bytes=-0", f"bytes={10**14}-"])
async def test_what_is_beyond_the_end_is_refused_with_the_size(client: httpx.AsyncClient, asked: str):
    """In the words of the surface."""
    answer = await client.get(PATHS[0], headers={"range": asked})
    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */1500000")
    assert "1500000 bytes" in answer.json()["error"]["message"]


async def test_who_has_it_is_not_sent_it_again(client: httpx.AsyncClient):
    """Whatever else they have."""
    for known in (TAG, f'"x", W/{TAG}', "*"):
        answer = await client.get(PATHS[0], headers={"if-none-match": known})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", TAG)
    assert (await client.get(PATHS[0], headers={"if-none-match": '"x"'})).status_code == 200


@pytest.mark.parametrize("path", PATHS)
async def test_a_head_says_what_a_get_would_without_reading_it(client: httpx.AsyncClient, store: OneFile, path: str):
    """Players ask for it before they seek."""
    answer = await client.head(path, headers={"range": "bytes=5-6"})
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", str(len(FILE)))
    assert (answer.headers["accept-ranges"], answer.headers["etag"]) == ("bytes", TAG)
    assert store.read_bytes == 1


@pytest.mark.parametrize(
    ("headers", "read_bytes"),
    [
        ({"range": "bytes=0-1"}, 2),
        ({"range": "bytes=1400000-1400009"}, 10),
        ({"range": "bytes=-5"}, 5),
        ({"range": "bytes=100-1200099"}, 1_200_000),
        ({"if-none-match": TAG}, 1),
        ({}, len(FILE)),
    ],
)
async def test_no_more_is_read_than_is_given(
    client: httpx.AsyncClient, store: OneFile, headers: dict[str, str], read_bytes: int
):
    """Players begin with two bytes, and caches with none."""
    await client.get(PATHS[0], headers=headers)
    assert store.read_bytes == read_bytes


def test_a_part_of_nothing_is_none():
    """An empty file has no part."""
    for part in (Part(first=0, last=None), Part(first=None, last=5), Part(first=0, last=0)):
        assert part.within(0) is None
    assert asked_part({"range": "bytes=0-"}, tag=TAG) == Part(first=0, last=None)
