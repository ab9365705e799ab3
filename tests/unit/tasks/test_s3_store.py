"""Results in S3, as moto's server speaks it, and the rules that the config file sets for results."""

import asyncio
import socket
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import boto3
import pytest
import structlog

from chassis.config import ConfigError, read
from chassis.errors import Code, TollbridgeError
from services.tasks.config import ResultsSection, parse
from services.tasks.files.archive import Archive
from services.tasks.files.results_store import NatsResults
from services.tasks.files.s3_store import S3Results

BUCKET = "tollbridge"
KEYS = {"access_key": "AKIDEXAMPLE", "secret_key": "example"}


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    """A server of its own, in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    client = boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    try:
        asyncio.run(_until_up(port))
        client.create_bucket(Bucket=BUCKET)
        yield url
    finally:
        server.kill()
        server.wait(20)


async def _until_up(port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.1)
                continue
            writer.close()
            return


@pytest.fixture
async def results(s3_url: str) -> AsyncIterator[S3Results]:
    store = S3Results(ResultsSection(store="s3", endpoint=s3_url, bucket=BUCKET, **KEYS))
    yield store
    await store.close()


async def test_files_are_kept_replaced_and_removed(results: S3Results):
    """Under the prefix, by their ids; what is not there is not found, and removing it is no failure."""
    file_id = str(uuid.uuid4())
    await results.put(file_id, b"first")
    await results.put(file_id, b"second" * 1000)
    assert await results.read(file_id, start=0, length=1 << 20) == b"second" * 1000
    assert await results.read(file_id, start=5999, length=1) == b"d"
    assert await results.read(file_id, start=3, length=6) == b"ondsec"
    await results.delete(file_id)
    await results.delete(file_id)
    assert await code_of(results.read(file_id, start=0, length=1)) is Code.NOT_FOUND


async def test_a_bucket_or_server_that_is_not_there_is_worth_another_try(s3_url: str):
    """Jobs wait for it; they don't fail."""
    for wrong in (
        {"endpoint": s3_url, "bucket": "no-such-bucket"},
        {"endpoint": "http://127.0.0.1:1", "bucket": BUCKET},
    ):
        store = S3Results(ResultsSection(store="s3", **wrong, **KEYS))
        assert await code_of(store.put("x", b"")) is Code.UNAVAILABLE
        await store.close()


async def test_the_archive_keeps_to_its_first_store(s3_url: str):
    """Another one would have half of the files; how long they are kept may change at any time."""
    archive = Archive(bucket=lambda: NatsResults(url="nats://127.0.0.1:1"), log=structlog.get_logger())
    section = ResultsSection(store="s3", endpoint=s3_url, bucket=BUCKET, **KEYS)
    archive.use(section)
    await archive.put("a", b"1")
    archive.use(ResultsSection(keep_hours=2))
    assert archive.rules.keep_s == 7200
    assert await archive.read("a", start=0, length=9) == b"1"
    await archive.delete("a")
    await archive.close()


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("{store: s3}", "bucket"),
        ("{store: s3, bucket: b, access_key: k}", "secret_key"),
        ("{store: s3, bucket: b, endpoint: ftp://x.test}", "endpoint"),
        ("{keep_hours: 0.5}", "keep_hours"),
        ("{customer_max_mib: 0}", "customer_max_mib"),
        ("{customer_max_files: 0}", "customer_max_files"),
        ("{store: disk}", "store"),
    ],
)
def test_what_is_wrong_in_results_is_named(tmp_path: Path, section: str, key: str):
    """With file, line and key."""
    path = tmp_path / "c.yaml"
    path.write_text(f"results: {section}\n")
    with pytest.raises(ConfigError) as caught:
        parse(read(path), {})
    assert key in str(caught.value)


def test_results_may_be_in_s3_with_or_without_keys(tmp_path: Path):
    """Without them, those of the machine's role are taken."""
    path = tmp_path / "c.yaml"
    path.write_text("results: {store: s3, bucket: b, region: eu-central-1, keep_hours: 24}\n")
    assert parse(read(path), {}).results.keep_s == 86_400


async def code_of(call) -> Code:
    with pytest.raises(TollbridgeError) as refused:
        await call
    return refused.value.code
