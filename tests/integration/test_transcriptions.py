"""Sounds through the unmodified OpenAI SDK: transcripts in their formats, at an exact price."""

from decimal import Decimal

import httpx
import openai

from tests.integration.running import Gateway
from tests.unit.edge.sound import wav


def test_the_sdk_transcribes_at_the_price_of_the_length(system: Gateway):
    """Whole, as a stream and as subtitles: two seconds each, by the provider's count."""
    account = system.customer(credit_usd="1")
    client = openai.OpenAI(base_url=f"{system.base_url}/v1", api_key=account.key, max_retries=0)
    file = ("speech.wav", wav(1.2), "audio/wav")
    raw = client.audio.transcriptions.with_raw_response.create(model="whisper-1", file=file)
    assert "sandbox" in raw.parse().text
    receipt = account.receipt(raw.headers["x-request-id"])
    assert Decimal(receipt["charge"]) == Decimal("0.006") * 2 / 60
    events = list(client.audio.transcriptions.create(model="whisper-1", file=file, stream=True))
    assert events[-1].type == "transcript.text.done"
    assert "".join(event.delta for event in events[:-1]) == events[-1].text
    assert client.audio.translations.create(model="whisper-1", file=file, response_format="srt").startswith("1\n00:")


def test_the_model_may_be_left_out(system: Gateway):
    """It is whisper-1 where there is one."""
    account = system.customer(credit_usd="1")
    answer = httpx.post(
        f"{system.base_url}/v1/audio/transcriptions",
        headers={"authorization": f"Bearer {account.key}"},
        files={"file": ("speech.mp3", wav(1), "audio/mpeg")},
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"]
