"""Providers that work on jobs of their own: what is sent to them, and how their reports are read."""

import json
from typing import Any

import pytest

from tests.fakes.player import Video
from tests.fakes.routes import route_to
from upstream.client import HttpCall, Timeouts
from upstream.form import read_form
from upstream.openai.videos import Videos
from upstream.outcome import AttemptFailed
from upstream.predictions.jobs import Predictions
from upstream.route import Route, WireProtocol
from upstream.sandbox.provider import Sandbox
from upstream.submission import JobReport, JobState

QUICK = Timeouts(connect_s=1, first_byte_s=1, idle_s=1, total_s=5)
PICTURE = "data:image/png;base64,iVBORw0KGgo="


def route(model: str = "theirs") -> Route:
    return route_to("https://x.test/v1", protocol=WireProtocol.SANDBOX, provider_model=model)


async def asked(sandbox: Sandbox, call: HttpCall) -> tuple[int, bytes]:
    response = await sandbox.send(call, timeouts=QUICK)
    return response.status, await response.read(8_000_000)


async def submitted(sandbox: Sandbox, prompt: str, **fields: Any) -> JobReport:
    body = {"prompt": prompt, "seconds": "1", "size": "64x48", **fields}
    status, answer = await asked(sandbox, Videos().submit(body, route(), request_id="r"))
    assert status == 200, answer
    return Videos().read(answer)


async def test_a_video_of_the_sandbox_plays_and_is_what_was_asked_for() -> None:
    """A real file: its frames decode, its length and size are right, and it is the same each time."""
    wire, sandbox = Videos(), Sandbox()
    job = await submitted(sandbox, "waves", seconds="2")
    assert (job.state, job.seconds) == (JobState.SUCCEEDED, 2)
    content = wire.content(job.id, route())
    assert content is not None
    (status, file), (_, again) = await asked(sandbox, content), await asked(sandbox, content)
    assert status == 200
    assert file == again
    video = Video(file)
    assert (video.size, video.seconds, len(video.frames)) == ((64, 48), 2, 8)
    assert {picture.size for picture in video.pictures()} == {(64, 48)}


async def test_a_video_of_the_sandbox_takes_its_time_and_knows_how_far_it_is() -> None:
    """By a clock alone: two asked at once are as far."""
    now_s = 1000.0
    sandbox = Sandbox(clock=lambda: now_s)
    job = await submitted(sandbox, '#sandbox {"chunks": 4, "gap_ms": 1000}')
    assert (job.state, job.progress) == (JobState.RUNNING, 0.0)
    now_s = 1003.0
    report = Videos().read((await asked(sandbox, Videos().poll(job.id, route())))[1])
    assert (report.state, report.progress) == (JobState.RUNNING, 0.75)
    now_s = 1004.0
    assert Videos().read((await asked(sandbox, Videos().poll(job.id, route())))[1]).state is JobState.SUCCEEDED


async def test_a_video_of_the_sandbox_fails_when_it_is_told_to() -> None:
    """At its end, with words; a job that never was is not found; one can be deleted."""
    sandbox = Sandbox()
    job = await submitted(sandbox, '#sandbox {"fail_after_chunks": 0}')
    assert (job.state, job.problem, job.is_rejected) == (JobState.FAILED, "the sandbox was told to fail", False)
    assert (await submitted(sandbox, '#sandbox {"error_after_chunks": 0}')).is_rejected
    assert (await asked(sandbox, Videos().poll("video_none", route())))[0] == 404
    assert (await asked(sandbox, Videos().cancel(job.id, route())))[0] == 200


@pytest.mark.parametrize(
    ("fields", "param"), [({"seconds": "0"}, "seconds"), ({"seconds": "x"}, "seconds"), ({"size": "33x48"}, "size")]
)
async def test_the_sandbox_refuses_videos_that_can_not_be(fields: dict[str, Any], param: str) -> None:
    """400, naming the field."""
    call = Videos().submit({"prompt": "x", **fields}, route(), request_id="r")
    status, answer = await asked(Sandbox(), call)
    assert status == 400
    assert param in json.loads(answer)["error"]["message"]


def test_a_picture_goes_along_as_a_file_of_a_form() -> None:
    """As the official SDKs send it; without one the body is JSON."""
    fields = {"prompt": "x", "seconds": 4, "input_reference": {"image_url": PICTURE}}
    call = Videos().submit(fields, route(), request_id="r")
    form = read_form(call.body, call.headers["content-type"])
    assert dict(form.fields) == {"prompt": "x", "seconds": "4", "model": "theirs"}
    (file,) = form.files
    assert (file.field, file.content_type, file.data[:4]) == ("input_reference", "image/png", b"\x89PNG")
    assert call.headers["authorization"] == "Bearer secret"
    plain = Videos().submit({"prompt": "x"}, route(), request_id="r")
    assert json.loads(plain.body) == {"prompt": "x", "model": "theirs"}


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"id":"v","status":"odd"}', b'{"id":"","status":"queued"}', b'{"error":{}}']
)
def test_what_is_no_video_is_a_failure(body: bytes) -> None:
    """The provider's, not a job that runs for ever."""
    with pytest.raises(AttemptFailed):
        Videos().read(body)


@pytest.mark.parametrize("wire", [Videos(), Predictions()], ids=["videos", "predictions"])
def test_what_a_provider_says_of_its_job_can_be_kept_and_shown(wire: Videos | Predictions) -> None:
    """No secret, and nothing that a database refuses: a job would break there, and be ordered and paid for again."""
    words = "no: \0 key sk-live-0123456789abcdef"
    error = {"code": "moderation_blocked", "message": words} if isinstance(wire, Videos) else words
    report = wire.read(json.dumps({"id": "v", "status": "failed", "error": error}).encode())
    assert report.problem == "no:   key [redacted]"
    for name in ("a\0b", "a\nb", ""):
        with pytest.raises(AttemptFailed):
            wire.read(json.dumps({"id": name, "status": "failed"}).encode())


def test_a_prediction_gets_the_names_that_most_models_have() -> None:
    """Size as edges, seconds as a duration; what we don't know travels on."""
    fields = {
        "model": "public",
        "prompt": "x",
        "n": 2,
        "size": "64x48",
        "seconds": "5",
        "seed": 7,
        "input_reference": {"image_url": PICTURE},
    }
    call = Predictions().submit(fields, route("maker/clips"), request_id="r")
    assert call.url == "https://x.test/v1/models/maker/clips/predictions"
    expected = {"prompt": "x", "num_outputs": 2, "width": 64, "height": 48, "duration": 5, "seed": 7, "image": PICTURE}
    assert json.loads(call.body) == {"input": expected}
    version = Predictions().submit({"prompt": "x"}, route("maker/clips:abc"), request_id="r")
    assert (version.url, json.loads(version.body)["version"]) == ("https://x.test/v1/predictions", "abc")


@pytest.mark.parametrize(
    ("answer", "state", "links"),
    [
        ({"id": "1", "status": "starting"}, JobState.RUNNING, ()),
        ({"id": "1", "status": "succeeded", "output": "https://y.test/1"}, JobState.SUCCEEDED, ("https://y.test/1",)),
        ({"id": "1", "status": "succeeded", "output": ["a", "b"]}, JobState.SUCCEEDED, ("a", "b")),
        ({"id": "1", "status": "succeeded", "output": None}, JobState.FAILED, ()),
        ({"id": "1", "status": "canceled"}, JobState.FAILED, ()),
        ({"id": "1", "status": "failed", "error": "no"}, JobState.FAILED, ()),
    ],
)
def test_predictions_are_read(answer: dict[str, Any], state: JobState, links: tuple[str, ...]) -> None:
    """A success without output is a failure: there is nothing to hand over."""
    report = Predictions().read(json.dumps(answer).encode())
    assert (report.state, report.links) == (state, links)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"id":"1","status":"odd"}'])
def test_what_is_no_prediction_is_a_failure(body: bytes) -> None:
    """As for videos."""
    with pytest.raises(AttemptFailed):
        Predictions().read(body)


def test_ids_of_providers_are_quoted_in_addresses() -> None:
    """Nothing that a provider calls its job leads anywhere else."""
    for wire in (Videos(), Predictions()):
        for call in (wire.poll("a/../b?c", route()), wire.cancel("a/../b?c", route())):
            assert "a%2F..%2Fb%3Fc" in call.url
