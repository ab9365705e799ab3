"""Speech through the unmodified OpenAI SDK: files that play, at an exact price."""

from decimal import Decimal
from pathlib import Path

import av
import openai
import pytest

from tests.integration.running import Gateway
from upstream.sandbox.speech import MS_PER_CHARACTER

TEXT = "The quick brown fox jumps over the lazy dog."
CONTAINERS = {"mp3": "mp3", "opus": "ogg", "aac": "aac", "flac": "flac", "wav": "wav"}


def heard(file: Path) -> tuple[str, float]:
    """The container of a file, and how many milliseconds a player would play of it."""
    with av.open(str(file)) as sound:
        samples = sum(frame.samples for frame in sound.decode(audio=0))
        return sound.format.name, samples / sound.streams.audio[0].rate * 1000


def test_the_sdk_streams_speech_to_files_that_play(*, system: Gateway, tmp_path: Path):
    """In every container, for as long as the text takes, at the price of its characters."""
    account = system.customer(credit_usd="1")
    client = openai.OpenAI(base_url=f"{system.base_url}/v1", api_key=account.key, max_retries=0)
    for wanted, container in CONTAINERS.items():
        file = tmp_path / f"speech.{wanted}"
        with client.audio.speech.with_streaming_response.create(
            model="tts-1", voice="nova", input=TEXT, response_format=wanted, speed=2
        ) as response:
            response.stream_to_file(file)
        assert heard(file) == (container, pytest.approx(len(TEXT) * MS_PER_CHARACTER / 2, abs=80))
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
