"""Speech through the unmodified OpenAI SDK: files that play, at an exact price."""

from decimal import Decimal
from pathlib import Path

import httpx
import openai
import pytest

from tests.fakes import listener
from tests.integration.running import Gateway, wait_until
from upstream.sandbox.speech import MS_PER_CHARACTER

TEXT = "The quick brown fox jumps over the lazy dog."
FORMATS = ("mp3", "opus", "aac", "flac", "wav")


def heard(file: Path) -> tuple[str, float]:
    """The container of a file, and how many milliseconds a player would play of it."""
    container, played = listener.heard(file.read_bytes())
    return container, played * 1000


def test_the_sdk_streams_speech_to_files_that_play(*, system: Gateway, tmp_path: Path):
    """In every container, AAC where ffmpeg makes it, for as long as the text takes, at its characters' price."""
    account = system.customer(credit_usd="1")
    client = openai.OpenAI(base_url=f"{system.base_url}/v1", api_key=account.key, max_retries=0)
    for wanted in FORMATS:
        if wanted == "aac" and not listener.HAS_AAC:
            continue
        file = tmp_path / f"speech.{wanted}"
        with client.audio.speech.with_streaming_response.create(
            model="tts-1", voice="nova", input=TEXT, response_format=wanted, speed=2
        ) as response:
            response.stream_to_file(file)
        assert heard(file) == (wanted, pytest.approx(len(TEXT) * MS_PER_CHARACTER / 2, abs=80))
        receipt = account.receipt(response.headers["x-request-id"])
        assert Decimal(receipt["charge"]) == Decimal(15) * len(TEXT) / 1_000_000
    whole = client.audio.speech.create(model="tts-1", voice="nova", input=TEXT)
    assert len(whole.content) > 1000
    assert whole.response.headers["content-type"] == "audio/mpeg"


def test_the_sdk_is_told_which_field_is_wrong(system: Gateway):
    """Ours or the provider's."""
    account = system.customer(credit_usd="1")
    client = openai.OpenAI(base_url=f"{system.base_url}/v1", api_key=account.key, max_retries=0)
    for wrong in ({"speed": 9.0}, {"voice": "nobody"}, {"response_format": "midi"}, {"input": ""}):
        with pytest.raises(openai.BadRequestError) as refused:
            client.audio.speech.create(**{"model": "tts-1", "voice": "nova", "input": TEXT, **wrong})
        assert refused.value.param == next(iter(wrong))
    assert account.settled_credits()["balance"] == 1


def test_a_long_text_is_spoken_as_a_task(*, system: Gateway, tmp_path: Path):
    """Its client waits for the whole file; the price is that of all its characters."""
    account = system.customer(credit_usd="1")
    client = openai.OpenAI(base_url=f"{system.base_url}/v1", api_key=account.key, max_retries=0, timeout=120)
    text = f"{TEXT} " * 100
    file = tmp_path / "long.mp3"
    with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="nova", input=text, speed=4, extra_headers={"idempotency-key": "long-1"}
    ) as response:
        assert (response.status_code, response.headers["content-type"]) == (200, "audio/mpeg")
        response.stream_to_file(file)
    assert heard(file) == ("mp3", pytest.approx(len(text) * MS_PER_CHARACTER / 4, rel=0.01))
    receipt = account.receipt(response.headers["x-request-id"])
    assert Decimal(receipt["charge"]) == Decimal(15) * len(text) / 1_000_000
    assert receipt["operation"] == "speech"
    assert account.settled_credits()["balance"] == 1 - Decimal(15) * len(text) / 1_000_000


def test_speech_that_nobody_waits_for_is_followed_as_a_task(system: Gateway):
    """And its file is its owner's alone."""
    account = system.customer(credit_usd="1")
    headers = {**account.headers, "prefer": "respond-async"}
    body = {"model": "tts-1", "input": TEXT, "response_format": "wav"}
    accepted = httpx.post(f"{system.base_url}/v1/audio/speech", headers=headers, json=body, timeout=20)
    assert accepted.status_code == 202, accepted.text
    task_id = accepted.json()["task_id"]

    def done() -> dict | None:
        found: dict = account.get(f"/tasks/{task_id}")
        return found if found["status"] == "succeeded" else None

    task = wait_until(done, timeout_s=30, what="the text is spoken")
    assert (task["kind"], Decimal(task["cost"])) == ("speech", Decimal(15) * len(TEXT) / 1_000_000)
    (file,) = task["result"]["data"]
    assert file["content_type"] == "audio/wav"
    path = file["url"].partition("?")[0]
    assert httpx.get(path, headers=account.headers).content.startswith(b"RIFF")
    assert httpx.get(path, headers=system.customer(credit_usd="1").headers).status_code == 404
    wrong = httpx.post(f"{system.base_url}/v1/audio/speech", headers=headers, json={**body, "speed": 5}, timeout=20)
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "speed")


def test_who_is_to_be_told_of_speech_gets_a_task(system: Gateway):
    """There is nothing to be told of without one; an address that can't be is named."""
    account = system.customer(credit_usd="1")
    body = {"model": "tts-1", "input": TEXT, "webhook_url": "https://127.0.0.1/hook"}
    refused = httpx.post(f"{system.base_url}/v1/audio/speech", headers=account.headers, json=body, timeout=20)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "webhook_url")
    assert account.settled_credits()["balance"] == 1


def test_speech_is_quoted_as_it_is_charged(system: Gateway):
    """By its characters, also of a text that is spoken as a task."""
    account = system.customer(credit_usd="1")
    for text in (TEXT, TEXT * 100):
        body = {"model": "tts-1", "input": text}
        quote = httpx.post(f"{system.base_url}/v1/quote", headers=account.headers, json=body, timeout=20).json()
        assert Decimal(quote["most"]) == Decimal(quote["likely"]) == Decimal(15) * len(text) / 1_000_000
