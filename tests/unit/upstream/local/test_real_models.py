"""The models of the extra `local-models` themselves, where it is installed: that they say something sensible."""

import asyncio
import io
import math

import aiohttp
import pytest

from upstream.local import chat, embedding, transcription
from upstream.local.failure import Refused
from upstream.local.installed import folder_of, is_installed

pytestmark = pytest.mark.skipif(not is_installed(), reason="the extra local-models is not installed")


async def test_the_chat_model_answers_and_guards_its_port() -> None:
    """A sentence with its usage; without the key that only this process has, nothing."""
    llama = await asyncio.to_thread(lambda: chat.load(threads=1))
    body = chat.checked(
        b'{"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 48}'
    )
    url = f"{llama.url}/v1/chat/completions"
    async with aiohttp.ClientSession() as client:
        async with client.post(url, json=body) as refused:
            assert refused.status == 401
        async with client.post(url, json=body, headers={"authorization": f"Bearer {llama.key}"}) as reply:
            answer = await reply.json()
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert 1 <= answer["usage"]["completion_tokens"] <= 48


def test_embeddings_are_near_for_what_means_the_same() -> None:
    """And far for what doesn't."""
    request = embedding.checked(b'{"input": ["a cat on a mat", "a kitten on a rug", "stock prices fell sharply"]}')
    answer = embedding.answer(request, embedding.load())
    cat, kitten, stocks = (row["embedding"] for row in answer["data"])
    assert len(cat) == embedding.DIMENSIONS[0]
    assert answer["usage"]["prompt_tokens"] == 16
    near, far = (sum(a * b for a, b in zip(cat, other, strict=True)) for other in (kitten, stocks))
    assert near > far + 0.2


def test_speech_becomes_text_with_its_times() -> None:
    """Of a recording that comes with the model, also when that is compressed and of another rate."""
    import soundfile

    recording = folder_of("moonshine_voice") / "assets" / "beckett.wav"
    listen = transcription.load()
    samples, rate = soundfile.read(recording)
    smaller = io.BytesIO()
    soundfile.write(smaller, samples[::2], rate // 2, format="FLAC")
    for file in (recording.read_bytes(), smaller.getvalue()):
        heard = listen(file)
        assert "Try again." in heard.text
        assert heard.seconds == pytest.approx(9.96, abs=0.01)
        assert 0 <= heard.lines[0].start_s < heard.lines[-1].end_s <= heard.seconds + 1


@pytest.mark.parametrize(
    ("samples", "rate", "channels"),
    [(0, 16_000, 1), (601 * 1000, 1000, 1)],
    ids=["empty", "longer than ten minutes"],
)
def test_a_sound_that_can_not_be_transcribed_is_refused(samples: int, rate: int, channels: int) -> None:
    """Before it is all in memory."""
    import numpy
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, numpy.zeros((samples, channels)), rate, format="WAV")
    with pytest.raises(Refused):
        transcription.decode(file.getvalue())


@pytest.mark.parametrize("file", [b"", b"RIFF", b"ID3" + b"\0" * 100, b"<html>"], ids=["none", "wav", "mp3", "page"])
def test_what_is_no_sound_is_refused(file: bytes) -> None:
    """400, whatever it claims to be."""
    with pytest.raises(Refused):
        transcription.decode(file)


def test_all_channels_are_heard() -> None:
    """A voice on one of two channels is not lost."""
    import numpy
    import soundfile

    tone = numpy.array([math.sin(number / 5) for number in range(16_000)])
    file = io.BytesIO()
    soundfile.write(file, numpy.stack([numpy.zeros_like(tone), tone], axis=1), 16_000, format="WAV")
    samples, rate = transcription.decode(file.getvalue())
    assert (rate, len(samples)) == (16_000, 16_000)
    assert float(abs(samples).max()) == pytest.approx(0.5, abs=0.01)
