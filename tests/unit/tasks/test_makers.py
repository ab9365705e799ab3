"""Jobs that a provider works on by itself: submitted once, borne with, fetched, and ended when nobody wants them."""

import asyncio
import dataclasses
import json
from typing import Any

import pytest

from chassis.errors import TollbridgeError
from pricing.tokens import Units
from services.tasks.making import image_maker, image_order, kinds, submission_maker, video_order
from services.tasks.making.kind import Kind, Making, NotWanted, Product, Providers
from tests.fakes.jobs import JobsProvider, jobs_provider
from tests.fakes.routes import route_to
from tests.fakes.troubled import TroubledProvider, in_thread
from upstream.client import HttpCall, Timeouts, UpstreamClient, UpstreamResponse
from upstream.outcome import AttemptFailed, JobFailed, Outcome
from upstream.route import WireProtocol
from upstream.sandbox.provider import Sandbox


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission_maker, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(image_maker, "FETCH_PAUSES_S", (0.001,) * len(image_maker.FETCH_PAUSES_S))


@dataclasses.dataclass
class Attempt:
    """One attempt at a provider, and what it left."""

    making: Making[Any]
    saved: list[str]
    progress: list[float]
    kind: Kind[Any]

    async def make(self) -> Product:
        return await self.kind.maker_of(self.making.route).make(self.making)

    async def cancel(self) -> None:
        await self.kind.maker_of(self.making.route).cancel(self.making)


def attempt(
    provider: JobsProvider,
    client: UpstreamClient,
    *,
    kind: Kind[Any] = kinds.VIDEO,
    protocol: WireProtocol = WireProtocol.OPENAI,
    submitted_id: str = "",
    **fields: Any,
) -> Attempt:
    saved, progress = list[str](), list[float]()

    async def save(job_id: str) -> None:
        saved.append(job_id)

    making: Making[Any] = Making(
        task_id="t",
        wanted=kind.parse(json.dumps({"prompt": "waves", **fields}).encode()),
        route=route_to(f"{provider.url}/v1", protocol=protocol, provider_model="maker/clips"),
        providers=Providers(client=client, sandbox=Sandbox()),
        submitted=save,
        progress=progress.append,
        submitted_id=submitted_id,
    )
    return Attempt(making=making, saved=saved, progress=progress, kind=kind)


@pytest.mark.parametrize("protocol", [WireProtocol.OPENAI, WireProtocol.PREDICTIONS])
async def test_a_video_is_submitted_saved_asked_after_and_fetched(
    protocol: WireProtocol, client: UpstreamClient
) -> None:
    """Its length is what was ordered, its type what its bytes say, whatever the provider calls it."""
    async with jobs_provider(polls=3) as provider:
        job = attempt(provider, client, protocol=protocol, seconds="8")
        product = await job.make()
        assert len(provider.submitted) == 1
        assert job.saved == ["job-1"]
        assert provider.asked == ["job-1"] * 4
    assert product.units == Units(requests=1, milliseconds=8000)
    (file,) = product.files
    assert file.content_type == ("video/mp4" if protocol is WireProtocol.OPENAI else "image/png")


async def test_what_was_submitted_is_never_submitted_again(client: UpstreamClient) -> None:
    """Another worker goes on with the same job."""
    async with jobs_provider() as provider:
        first = attempt(provider, client)
        await first.make()
        again = attempt(provider, client, submitted_id=first.saved[0])
        await again.make()
        assert (len(provider.submitted), again.saved) == (1, [])


class SlowToAnswer(UpstreamClient):
    """Hands answers over when it is told to."""

    def __init__(self, client: UpstreamClient) -> None:
        super().__init__()
        self._client = client
        self.asked, self.answers = asyncio.Event(), asyncio.Event()

    async def send(self, call: HttpCall, *, timeouts: Timeouts) -> UpstreamResponse:
        response = await self._client.send(call, timeouts=timeouts)
        self.asked.set()
        await self.answers.wait()
        return response


@pytest.mark.parametrize("is_wanted", [True, False])
async def test_what_is_being_submitted_is_saved_whatever_its_worker_is_told_meanwhile(
    is_wanted: bool, client: UpstreamClient
) -> None:
    """Nobody else could find or stop it; that it is not wanted any more is said, so that it is stopped."""

    async def not_wanted(_: str) -> None:
        raise NotWanted

    slow = SlowToAnswer(client)
    async with jobs_provider() as provider:
        job = attempt(provider, client)
        job.making = dataclasses.replace(job.making, providers=Providers(client=slow, sandbox=Sandbox()))
        if not is_wanted:
            job.making = dataclasses.replace(job.making, submitted=not_wanted)
        making = asyncio.create_task(job.make())
        await asyncio.wait_for(slow.asked.wait(), 20)
        for _ in range(2):
            making.cancel()
            await asyncio.sleep(0)
        slow.answers.set()
        with pytest.raises(asyncio.CancelledError if is_wanted else NotWanted):
            await asyncio.wait_for(making, 20)
        assert job.saved == (["job-1"] if is_wanted else [])


async def test_a_worker_does_not_wait_for_ever_for_what_it_was_told_to_leave(
    client: UpstreamClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that does not answer must not keep a process from ending."""
    monkeypatch.setattr(submission_maker, "SUBMIT_S", 0.01)
    slow = SlowToAnswer(client)
    async with jobs_provider() as provider:
        job = attempt(provider, client)
        job.making = dataclasses.replace(job.making, providers=Providers(client=slow, sandbox=Sandbox()))
        making = asyncio.create_task(job.make())
        await asyncio.wait_for(slow.asked.wait(), 20)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(making, 20)
        assert job.saved == []


async def test_a_provider_that_stumbles_is_borne_with_for_a_while(client: UpstreamClient) -> None:
    """And then the job is given back, which is no end of it."""
    async with jobs_provider(misses=submission_maker.MAX_MISSES - 1) as provider:
        assert (await attempt(provider, client).make()).files
        provider.misses = 50
        with pytest.raises(AttemptFailed) as caught:
            await attempt(provider, client).make()
        assert not isinstance(caught.value, JobFailed)


@pytest.mark.parametrize("protocol", [WireProtocol.OPENAI, WireProtocol.PREDICTIONS])
async def test_a_job_that_fails_or_is_forgotten_there_is_over(protocol: WireProtocol, client: UpstreamClient) -> None:
    """So that it may be made elsewhere."""
    for told in ({"fails": "broken"}, {"forgets": True}):
        async with jobs_provider(**told) as provider:
            with pytest.raises(JobFailed):
                await attempt(provider, client, protocol=protocol).make()


async def test_a_job_that_is_refused_for_its_content_is_not_tried_elsewhere(client: UpstreamClient) -> None:
    """The provider's words are its customer's to read."""
    async with jobs_provider(fails="moderation_blocked") as provider:
        with pytest.raises(JobFailed) as caught:
            await attempt(provider, client).make()
        assert (caught.value.outcome, caught.value.message) == (Outcome.REJECTED, "it was refused")


async def test_a_picture_whose_link_fails_at_first_is_not_ordered_again(client: UpstreamClient) -> None:
    """Its provider would be paid twice; that the link never works is a failure of the attempt."""
    provider = TroubledProvider(takes_s=0)
    with in_thread(provider.app()) as url:
        for trouble in ("misses", "breaks_at_download"):
            job = attempt(JobsProvider(url=f"{url}/{trouble}"), client, kind=kinds.IMAGE)
            if trouble == "misses":
                assert (await job.make()).units.images == 1
            else:
                with pytest.raises(AttemptFailed):
                    await job.make()
            assert provider.count(trouble, "taken") == 1


async def test_a_shorter_video_costs_less_and_a_longer_one_no_more(client: UpstreamClient) -> None:
    """What the provider says that it made, up to what was ordered."""
    for said, expected in (("3", 3000), ("90", 8000), ("odd", 8000)):
        async with jobs_provider(seconds=said) as provider:
            product = await attempt(provider, client, seconds="8").make()
            assert product.units.milliseconds == expected


async def test_a_job_can_be_ended_also_when_it_is_over(client: UpstreamClient) -> None:
    """Cancellation reaches the provider; that it knows the job no more is no failure."""
    async with jobs_provider() as provider:
        job = attempt(provider, client)
        await job.make()
        for protocol in (WireProtocol.OPENAI, WireProtocol.PREDICTIONS):
            for job_id in ("job-1", "gone"):
                await attempt(provider, client, protocol=protocol, submitted_id=job_id).cancel()
        assert provider.cancelled == ["job-1", "gone"] * 2


async def test_pictures_of_a_job_are_charged_as_far_as_they_were_ordered(client: UpstreamClient) -> None:
    """What a provider makes beyond that is neither kept nor paid."""
    for outputs, expected in ((1, 1), (5, 2)):
        async with jobs_provider(outputs=outputs) as provider:
            job = attempt(provider, client, kind=kinds.IMAGE, protocol=WireProtocol.PREDICTIONS, n=2, size="64x48")
            product = await job.make()
            assert (len(product.files), product.units.images) == (expected, expected)
            assert {file.content_type for file in product.files} == {"image/png"}
            assert provider.submitted[0]["input"]["num_outputs"] == 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"seconds": 0}, "seconds"),
        ({"seconds": "61"}, "seconds"),
        ({"seconds": "4.5"}, "seconds"),
        ({"size": "big"}, "size"),
        ({"input_reference": "file"}, "input_reference"),
        ({"input_reference": {"image_url": "https://x.test/a.png"}}, "input_reference"),
        ({"input_reference": {"image_url": "data:image/png;base64,*"}}, "input_reference"),
    ],
)
def test_what_is_wrong_in_a_video_order_is_named(fields: dict[str, Any], param: str) -> None:
    """A 400 with the field, never a failure later."""
    with pytest.raises(TollbridgeError) as caught:
        video_order.parse(json.dumps({"prompt": "x", **fields}).encode())
    assert caught.value.details["param"] == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"size": "huge"}, "size"),
        ({"quality": "best"}, "quality"),
        ({"style": "odd"}, "style"),
        ({"background": "red"}, "background"),
        ({"background": "transparent", "output_format": "jpeg"}, "background"),
        ({"response_format": "bytes"}, "response_format"),
        ({"output_format": "tiff"}, "output_format"),
        ({"output_compression": -1}, "output_compression"),
        ({"stream": True, "response_format": "url"}, "response_format"),
        ({"user": 5}, "user"),
    ],
)
def test_what_is_wrong_in_an_image_order_is_named(fields: dict[str, Any], param: str) -> None:
    """Each field that OpenAI documents."""
    with pytest.raises(TollbridgeError) as caught:
        image_order.parse(json.dumps({"prompt": "x", **fields}).encode())
    assert caught.value.details["param"] == param


@pytest.mark.parametrize("parse", [image_order.parse, video_order.parse])
def test_nobody_has_more_made_than_is_paid_for(parse: Any) -> None:
    """By a provider's own name for how many, how large or how long; what says nothing of that travels on."""
    for field in ("num_outputs", "number_of_images", "width", "resolution", "duration", "num_frames", "svg"):
        with pytest.raises(TollbridgeError) as caught:
            parse(json.dumps({"prompt": "x", field: 10}).encode())
        assert caught.value.details["param"] == field
    assert parse(b'{"prompt": "x", "num_outputs": null, "generate_audio": false, "seed": 7}').fields["seed"] == 7


def test_a_video_is_made_alone() -> None:
    """Some providers make as many as `n` says, and what is paid for is the seconds of one."""
    for n in (2, 0, "2", True):
        with pytest.raises(TollbridgeError) as caught:
            video_order.parse(json.dumps({"prompt": "x", "n": n}).encode())
        assert caught.value.details["param"] == "n"
    assert video_order.parse(b'{"prompt": "x", "n": 1}').seconds == 4


@pytest.mark.parametrize("parse", [image_order.parse, video_order.parse])
def test_a_size_ends_with_its_height(parse: Any) -> None:
    """A line's end after it would be a size that no price knows."""
    with pytest.raises(TollbridgeError) as caught:
        parse(b'{"prompt": "x", "size": "64x64\\n"}')
    assert caught.value.details["param"] == "size"


def test_what_is_paid_for_is_said_to_the_provider() -> None:
    """Defaults are sent, what is ours is not."""
    order = video_order.parse(
        b'{"prompt": "x", "model": "m", "webhook_url": "https://x.test", "size": null, "seed": 1}'
    )
    assert order.fields == {"prompt": "x", "seconds": "4", "size": "720x1280", "seed": 1}
