"""The official SDK makes images and videos: every form and format decodes, and each costs what it was sold for."""

import base64
import io
import json
import uuid
import warnings
from decimal import Decimal
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from tests.fakes.player import Video
from tests.integration.running import Account, Gateway, wait_until

PER_IMAGE_USD, PER_SECOND_USD = Decimal("0.02"), Decimal("0.10")
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(scope="module")
def account(system: Gateway) -> Account:
    """A customer with money enough."""
    return system.customer(credit_usd="20")


@pytest.fixture(scope="module")
def client(account: Account) -> openai.OpenAI:
    """The SDK, which would try again what it should not have to."""
    url, key = f"{account.gateway.base_url}/v1", account.key
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=70)


def decoded(data: bytes) -> tuple[str | None, tuple[int, int]]:
    """Format and size of a picture, decoded whole."""
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture.format, picture.size


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("response_format", ["url", "b64_json"])
def test_images_come_in_every_form_and_format(client: openai.OpenAI, output_format: Any, response_format: Any) -> None:
    """In the size asked for; a link needs no key, and says what it leads to."""
    answer = client.images.generate(
        model="sandbox-image",
        prompt="a bridge",
        n=2,
        size="256x256",
        quality="low",
        output_format=output_format,
        response_format=response_format,
    )
    assert answer.data is not None
    assert (len(answer.data), answer.output_format, answer.size) == (2, output_format, "256x256")
    for each in answer.data:
        if response_format == "b64_json":
            data = base64.b64decode(each.b64_json or "")
        else:
            reply = httpx.get(each.url or "", timeout=30)
            assert reply.headers["content-type"] == f"image/{output_format}"
            assert reply.headers["x-content-type-options"] == "nosniff"
            data = reply.content
        assert decoded(data) == (output_format.upper(), (256, 256))
    assert answer.usage is not None
    assert Decimal(str(answer.usage.model_extra["cost"])) == 2 * PER_IMAGE_USD  # type: ignore[index]  # it has extras


def test_images_are_streamed_when_they_are_whole(account: Account, client: openai.OpenAI) -> None:
    """An event for each, of which the last says what all of them cost; again under its key, it is the same job."""
    wish: Any = {"prompt": "a bridge", "n": 2, "size": "64x64", "output_format": "webp", "partial_images": 1}
    key = {"idempotency-key": "streamed-images"}
    for _ in range(2):
        with client.images.generate(model="sandbox-image", stream=True, extra_headers=key, **wish) as stream:
            task_id = stream.response.headers["x-request-id"]
            events: list[Any] = list(stream)
        assert [event.type for event in events] == ["image_generation.completed"] * 2
        for event in events:
            assert (event.size, event.output_format, event.quality) == ("64x64", "webp", "auto")
            assert decoded(base64.b64decode(event.b64_json)) == ("WEBP", (64, 64))
        costs = [Decimal(str(event.usage.cost)) for event in events]
        assert costs == [0, 2 * PER_IMAGE_USD]
    assert Decimal(account.receipt(task_id)["charge"]) == 2 * PER_IMAGE_USD
    assert stream.response.headers["idempotency-replayed"] == "true"
    with pytest.raises(openai.BadRequestError, match="not that"):
        client.images.generate(
            model="sandbox-image", prompt='x\n#sandbox {"status": 400, "message": "not that"}', stream=True
        )


def test_a_link_can_not_be_bent(account: Account, client: openai.OpenAI) -> None:
    """To another file, to a later end, or to none at all."""
    answer = client.images.generate(model="sandbox-image", prompt="x", n=2, size="16x16")
    assert answer.data is not None
    first, second = (httpx.URL(each.url or "") for each in answer.data)
    wrong = (
        second.copy_with(query=first.query),
        first.copy_set_param("expires", int(first.params["expires"]) + 60),
        first.copy_set_param("expires", "later"),
        first.copy_set_param("signature", "0" * 64),
    )
    assert [httpx.get(url, timeout=30).status_code for url in wrong] == [404] * 4
    bare = first.copy_with(query=None)
    assert httpx.get(bare, timeout=30).status_code == 401
    assert httpx.get(bare, headers=account.headers, timeout=30).status_code == 200
    gone = httpx.delete(str(bare).removesuffix("/content"), headers=account.headers, timeout=30)
    assert gone.json()["deleted"] is True
    assert httpx.get(first, timeout=30).status_code == 404


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"size": "big"}, "size"),
        ({"quality": "best"}, "quality"),
        ({"style": "odd"}, "style"),
        ({"background": "red"}, "background"),
        ({"background": "transparent", "output_format": "jpeg"}, "background"),
        ({"response_format": "bytes"}, "response_format"),
        ({"output_format": "tiff"}, "output_format"),
        ({"output_compression": 101}, "output_compression"),
        ({"n": 11}, "n"),
        ({"stream": True, "response_format": "url"}, "response_format"),
    ],
)
def test_a_field_of_an_image_that_can_not_be_is_named(
    client: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    """400, and nothing is held."""
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(model="sandbox-image", prompt="x", extra_body=fields)
    assert refused.value.param == param


def made(client: openai.OpenAI, **fields: Any) -> Any:
    """A video, awaited as the SDK does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # OpenAI has closed its own; others speak it
        return client.videos.create_and_poll(model="sora-2", poll_interval_ms=100, **fields)


def test_a_video_is_made_polled_and_downloaded(account: Account, client: openai.OpenAI) -> None:
    """It plays: length and size are those that were asked for, and the receipt is by the second."""
    video = made(client, prompt="waves", seconds="4", size="720x1280")
    assert (video.status, video.progress, video.seconds, video.size) == ("completed", 100, "4", "720x1280")
    assert (video.object, video.prompt, video.error) == ("video", "waves", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        content = client.videos.download_content(video.id)
    assert content.response.headers["content-type"] == "video/mp4"
    opened = Video(content.content)
    assert (opened.size, opened.seconds) == ((720, 1280), 4)
    assert next(opened.pictures()).size == (720, 1280)
    assert Decimal(account.receipt(video.id)["charge"]) == 4 * PER_SECOND_USD
    url = f"{account.gateway.base_url}/v1/videos/{video.id}/content"
    size = len(content.content)
    assert httpx.head(url, headers=account.headers, timeout=30).headers["content-length"] == str(size)
    part = httpx.get(url, headers=account.headers | {"range": f"bytes={size // 2}-{size // 2 + 9}"}, timeout=30)
    assert (part.status_code, part.content) == (206, content.content[size // 2 : size // 2 + 10])


def test_videos_are_listed_page_by_page(account: Account) -> None:
    """Newest first or last, one's own and no other task."""
    mine = account.gateway.customer(credit_usd="5")
    with warnings.catch_warnings(), openai.OpenAI(api_key=mine.key, base_url=f"{mine.gateway.base_url}/v1") as client:
        warnings.simplefilter("ignore", DeprecationWarning)
        assert list(client.videos.list()) == []
        client.images.generate(model="sandbox-image", prompt="x", size="16x16")  # type: ignore[call-overload]  # ours
        made_ids = [
            client.videos.create(model="sora-2", prompt=f"no. {number}", seconds="4", size="64x48").id  # type: ignore[arg-type]  # ours
            for number in range(3)
        ]
        first = client.videos.list(limit=2)
        assert [video.id for video in first.data] == made_ids[:0:-1]
        assert (first.has_more, first.last_id) == (True, made_ids[1])
        assert [video.prompt for video in client.videos.list(limit=2, order="asc")] == ["no. 0", "no. 1", "no. 2"]
        with pytest.raises(openai.BadRequestError) as refused:
            client.videos.list(limit=101)
    assert refused.value.param == "limit"


def test_a_picture_to_begin_with_reaches_the_provider(client: openai.OpenAI) -> None:
    """As a file of the SDK's form; what is no picture is named."""
    video = made(client, prompt="waves", seconds="4", size="64x48", input_reference=("a.png", PNG, "image/png"))
    assert (video.status, video.seconds, video.size) == ("completed", "4", "64x48")
    with pytest.raises(openai.BadRequestError) as refused:
        made(client, prompt="x", input_reference=("a.txt", b"text", "text/plain"))
    assert refused.value.param == "input_reference"


def test_a_video_that_fails_says_so_and_costs_nothing(account: Account, client: openai.OpenAI) -> None:
    """In OpenAI's shape; another customer's, and what is no video, is not found."""
    failed = made(client, prompt='x\n#sandbox {"error_after_chunks": 0}', seconds="4", size="64x48")
    assert failed.status == "failed"
    assert failed.error is not None
    assert Decimal(account.receipt(failed.id)["charge"]) == 0
    url = f"{account.gateway.base_url}/v1/videos/{failed.id}"
    stranger = account.gateway.customer(credit_usd="1")
    for path in ("", "/content"):
        assert httpx.get(url + path, headers=stranger.headers, timeout=30).status_code == 404
    assert httpx.delete(url, headers=stranger.headers, timeout=30).status_code == 404
    assert httpx.get(f"{url}/content", headers=account.headers, timeout=30).status_code == 409
    image = httpx.post(
        f"{account.gateway.base_url}/v1/images/generations",
        json={"model": "sandbox-image", "prompt": "x", "size": "16x16"},
        headers=account.headers,
        timeout=70,
    ).json()
    other = f"{account.gateway.base_url}/v1/videos/{image['task_id']}"
    assert httpx.get(other, headers=account.headers, timeout=30).status_code == 404
    unheard = f"{account.gateway.base_url}/v1/videos/video_123"
    assert httpx.get(unheard, headers=account.headers, timeout=30).status_code == 404


def test_a_video_that_nobody_wants_is_ended_and_removed(account: Account, client: openai.OpenAI) -> None:
    """Its money comes back, and from then on it is not found, though its task still says what became of it."""
    slow = 'x\n#sandbox {"chunks": 600, "gap_ms": 1000}'
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        running = client.videos.create(model="sandbox-video", prompt=slow, seconds="8", size="64x48")
        assert running.status in ("queued", "in_progress")
        assert client.videos.delete(running.id).deleted
        for again in (client.videos.retrieve, client.videos.download_content, client.videos.delete):
            with pytest.raises(openai.NotFoundError) as gone:
                again(running.id)
            assert gone.value.code == "not_found"
        assert running.id not in [video.id for video in client.videos.list(limit=100)]
    task = f"{account.gateway.base_url}/v1/tasks/{running.id}"
    assert httpx.get(task, headers=account.headers, timeout=30).json()["status"] == "cancelled"
    assert Decimal(account.receipt(running.id)["charge"]) == 0


@pytest.mark.parametrize(
    ("fields", "param"), [({"seconds": "0"}, "seconds"), ({"seconds": "61"}, "seconds"), ({"size": "x"}, "size")]
)
def test_a_field_of_a_video_that_can_not_be_is_named(account: Account, fields: dict[str, str], param: str) -> None:
    """400 in a form as in JSON."""
    url, body = f"{account.gateway.base_url}/v1/videos", {"model": "sora-2", "prompt": "x", **fields}
    for sent in ({"json": body}, {"files": {name: (None, value) for name, value in body.items()}}):
        reply = httpx.post(url, headers=account.headers, timeout=30, **sent)  # type: ignore[arg-type]  # by name
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


def test_a_video_under_one_key_is_made_once(account: Account) -> None:
    """Also when each form has its own boundary; a cost that it may not have is refused before."""
    url = f"{account.gateway.base_url}/v1/videos"
    body = {"model": "sora-2", "prompt": "x", "seconds": "4", "size": "64x48"}
    form = {name: (None, value) for name, value in body.items()}
    headers = account.headers | {"idempotency-key": "one-video"}
    first, again = (httpx.post(url, files=form, headers=headers, timeout=30) for _ in range(2))
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["idempotency-replayed"] == "true"
    dear = httpx.post(url, json=body, headers=account.headers | {"x-max-cost": "0.39"}, timeout=30)
    assert (dear.status_code, dear.json()["error"]["code"]) == (400, "max_cost_exceeded")
    quote = httpx.post(
        f"{account.gateway.base_url}/v1/quote", content=json.dumps(body), headers=account.headers, timeout=30
    )
    assert (quote.json()["most"], quote.json()["likely"]) == ("0.400000000", "0.400000000")


@pytest.mark.parametrize(
    ("fields", "each_usd"),
    [
        ({"size": "16x16"}, "0.04"),
        ({"size": "32x32"}, "0.05"),
        ({"size": "32x32", "quality": "high"}, "0.080000001"),
        ({"size": "16x16", "quality": "high"}, "0.07"),
    ],
)
def test_an_image_costs_what_its_size_and_quality_cost(account: Account, fields: dict[str, str], each_usd: str) -> None:
    """Quoted, held, charged and shown the same, to the nano-dollar."""
    body = {"model": "sized-image", "prompt": "x", "n": 2, **fields}
    url = f"{account.gateway.base_url}/v1"
    most = httpx.post(f"{url}/quote", json=body, headers=account.headers, timeout=30).json()["most"]
    cap = {"x-max-cost": most}
    made = httpx.post(f"{url}/images/generations", json=body, headers=account.headers | cap, timeout=70).json()
    receipt = account.receipt(made["task_id"])
    assert Decimal(most) == Decimal(receipt["charge"]) == Decimal(str(made["usage"]["cost"])) == 2 * Decimal(each_usd)


def test_a_second_of_a_larger_video_costs_more(account: Account, client: openai.OpenAI) -> None:
    """By the table of sizes."""
    video = made(client, prompt="x", seconds="4", size="64x96")
    assert Decimal(account.receipt(video.id)["charge"]) == 4 * Decimal("0.30")


def test_an_image_that_is_sold_by_tokens_says_how_many(account: Account, client: openai.OpenAI) -> None:
    """What the provider reports is charged and shown."""
    prompt = 'x\n#sandbox {"prompt_tokens": 7, "output_tokens": 1056}'
    answer = client.images.generate(model="token-image", prompt=prompt, size="16x16")
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (7, 1056, 1063)
    task_id = (answer.model_extra or {})["task_id"]
    assert Decimal(account.receipt(task_id)["charge"]) == Decimal("0.000035") + Decimal("0.03168")


def test_a_job_at_a_provider_is_told_of_while_it_runs(account: Account) -> None:
    """The pending answer names the provider's own task, and the task goes on to its end by itself."""
    url = f"{account.gateway.base_url}/v1/images/generations"
    body = {"model": "jobs-image", "prompt": "x #polls 4", "size": "64x64"}
    headers = account.headers | {"prefer": "wait=1", "idempotency-key": str(uuid.uuid4())}
    pending = wait_until(
        lambda: (seen := httpx.post(url, json=body, headers=headers, timeout=30).json())["provider_task_id"] and seen,
        timeout_s=60,
        what="the provider has the job",
    )
    assert (pending["status"], pending["data"]) == ("pending", [])
    assert pending["provider_task_id"].startswith("job-")
    task = wait_until(
        lambda: (found := account.get(f"/tasks/{pending['task_id']}"))["status"] == "succeeded" and found,
        timeout_s=60,
        what="the provider's job is done",
    )
    (file,) = task["result"]["data"]
    assert httpx.get(file["url"], timeout=30).headers["content-type"] == file["content_type"] == "image/png"
    assert Decimal(account.receipt(task["id"])["charge"]) == Decimal("0.05")
