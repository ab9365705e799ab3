"""Local models speak OpenAI's HTTP: what they take, what they refuse, and how much they take on at once."""

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.unit.upstream.local.house import House, house
from upstream.local import chat, transcription
from upstream.local.failure import Refused
from upstream.local.installed import CHAT, EMBEDDING, TRANSCRIPTION
from upstream.local.once import Once
from upstream.local.turns import Turns

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
async def models() -> AsyncIterator[House]:
    """A server of its own for each test: some fill it."""
    async with house() as running:
        yield running


async def test_only_what_this_model_understands_reaches_it(models: House) -> None:
    """llama.cpp has fields that load files and change it for others: nothing but OpenAI's gets through."""
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "x"},
    ]
    body = {
        "model": "any",
        "messages": messages,
        "max_completion_tokens": 9,
        "lora": [{"id": 0}],
        "id_slot": 3,
        "seed": 4,
    }
    status, answer = await models.post("/chat/completions", body)
    assert (status, answer) == (200, {"id": "1", "choices": []})
    (asked,) = models.asked
    assert asked["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a\nb"}]
    assert (asked["max_tokens"], asked["seed"], asked["model"]) == (9, 4, CHAT)
    assert {"lora", "id_slot", "max_completion_tokens"}.isdisjoint(asked)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"messages": HELLO, "n": 2}, "n"),
        ({"messages": HELLO, "tools": [{}]}, "tools"),
        ({"messages": HELLO, "max_tokens": "many"}, "max_tokens"),
    ],
)
async def test_what_the_chat_model_can_not_do_is_refused_by_name(models: House, fields: Any, param: str) -> None:
    """400 in OpenAI's shape, before the model is asked or even loaded."""
    status, answer = await models.post("/chat/completions", fields)
    assert (status, answer["error"]["param"]) == (400, param)
    assert not models.asked
    assert not models.loads


def test_no_answer_is_longer_than_the_model_may_give() -> None:
    """Whatever is asked for, or nothing."""
    for limit in ({}, {"max_tokens": 10**9}):
        assert chat.checked(json.dumps({"messages": HELLO, **limit}).encode())["max_tokens"] == chat.MAX_OUTPUT


async def test_a_stream_is_passed_on_as_it_comes_and_ended_when_its_client_leaves(models: House) -> None:
    """The first bytes are there while the model goes on, and nobody computes for a client that is gone."""
    body = {"messages": [{"role": "user", "content": "go on for ever"}], "stream": True}
    async with models.client.post(f"{models.url}/chat/completions", json=body) as reply:
        assert await asyncio.wait_for(reply.content.readline(), 5) == b"data: first\n"
    await asyncio.wait_for(models.gone.wait(), 5)


async def test_a_model_is_loaded_once_when_it_is_first_asked(models: House) -> None:
    """Also when many ask at the same moment."""
    await asyncio.gather(*(models.post("/chat/completions", {"messages": HELLO}) for _ in range(5)))
    assert models.loads == ["llama"]


async def test_a_load_that_failed_is_tried_again() -> None:
    """By the next who asks; the failure is told to the one who asked."""
    tries = iter([RuntimeError("no memory"), 7])

    def load() -> int:
        found = next(tries)
        if isinstance(found, Exception):
            raise found
        return found

    once = Once(load)
    with pytest.raises(RuntimeError):
        await once.get()
    assert await once.get() == 7


@pytest.mark.parametrize("tokens", [[1, 2], [[1, 2], [3]]], ids=["a text", "texts"])
async def test_tokens_are_refused_in_words_that_help(models: House, tokens: object) -> None:
    """Some clients send OpenAI's tokens unless they are told not to; another model would read them as other words."""
    status, answer = await models.post("/embeddings", {"input": tokens})
    assert (status, answer["error"]["param"]) == (400, "input")
    assert "tokens are not this model's" in answer["error"]["message"]


async def test_embeddings_are_of_length_one_in_either_encoding_and_counted(models: House) -> None:
    """The first 64 are an embedding by themselves."""
    status, answer = await models.post("/embeddings", {"input": ["a b", "c"], "dimensions": 64})
    assert (status, answer["model"], answer["usage"]) == (200, EMBEDDING, {"prompt_tokens": 3, "total_tokens": 3})
    rows = [row["embedding"] for row in answer["data"]]
    assert [len(row) for row in rows] == [64, 64]
    assert sum(number**2 for number in rows[0]) == pytest.approx(1)
    _, packed = await models.post("/embeddings", {"input": "a b", "dimensions": 64, "encoding_format": "base64"})
    raw = base64.b64decode(packed["data"][0]["embedding"])
    assert struct.unpack("<64f", raw) == pytest.approx(rows[0])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [1, 2]}, "input"),
        ({"input": "   "}, "input"),
        ({"input": "x " * 9000}, "input"),
        ({"input": "a", "dimensions": 100}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
    ],
)
async def test_what_can_not_be_embedded_is_refused_by_name(models: House, fields: Any, param: str) -> None:
    """400 in OpenAI's shape."""
    status, answer = await models.post("/embeddings", fields)
    assert (status, answer["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("wanted", "body"),
    [
        ("text", "Hello. You.\n"),
        ("srt", "1\n00:00:00,500 --> 01:01:01,250\nHello.\n\n2\n00:00:04,000 --> 00:00:05,000\nYou.\n\n"),
        ("vtt", "WEBVTT\n\n00:00:00.500 --> 01:01:01.250\nHello.\n\n00:00:04.000 --> 00:00:05.000\nYou.\n\n"),
    ],
)
async def test_a_transcript_comes_in_the_format_that_is_asked_for(models: House, wanted: str, body: str) -> None:
    """Plain texts as they are."""
    assert await models.transcribe(response_format=wanted, model=TRANSCRIPTION) == (200, body)


async def test_a_transcript_in_json_says_how_long_the_sound_is(models: House) -> None:
    """In whole seconds, begun ones included: that is what it is paid by."""
    _, plain = await models.transcribe()
    assert json.loads(plain) == {"text": "Hello. You.", "usage": {"type": "duration", "seconds": 6}}
    _, verbose = await models.transcribe(response_format="verbose_json", language="en")
    found = json.loads(verbose)
    assert (found["duration"], [each["end"] for each in found["segments"]]) == (5.2, [3661.25, 5])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "pdf"}, "response_format"),
        ({"language": "fr"}, "language"),
        ({"stream": "true"}, "stream"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities"),
    ],
)
async def test_what_the_transcriber_can_not_do_is_refused_by_name(
    models: House, fields: dict[str, str], param: str
) -> None:
    """400 in OpenAI's shape."""
    status, body = await models.transcribe(**fields)
    assert (status, json.loads(body)["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data; boundary=x", b"no form"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n--x--\r\n',
        ),
        ("multipart/form-data", b"--x--"),
    ],
)
async def test_a_body_that_is_no_form_with_a_file_is_refused(models: House, content_type: str, body: bytes) -> None:
    """400, whatever is wrong with it."""
    url = f"{models.url}/audio/transcriptions"
    async with models.client.post(url, data=body, headers={"content-type": content_type}) as reply:
        assert (reply.status, (await reply.json())["error"]["type"]) == (400, "invalid_request_error")


async def test_whoever_is_too_many_is_told_to_come_back(models: House) -> None:
    """One is heard and eight wait; of ten one gets 429 with a Retry-After at once, and the others their answers."""
    models.slow.clear()

    async def asked() -> tuple[int, str]:
        form = aiohttp.FormData()
        form.add_field("file", b"a sound", filename="a.wav")
        async with models.client.post(f"{models.url}/audio/transcriptions", data=form) as reply:
            return reply.status, reply.headers.get("retry-after", "")

    tasks = {asyncio.create_task(asked()) for _ in range(2 + transcription.WAITING)}
    first, others = await asyncio.wait(tasks, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result() for task in first] == [(429, "2")]
    models.slow.set()
    assert set(await asyncio.gather(*others)) == {(200, "")}


async def test_work_that_nobody_waits_for_keeps_its_turn_to_its_end() -> None:
    """A thread can't be stopped: those who give up and come back must not pile up work behind each other."""
    turns, release = Turns(at_once=1, waiting=0), asyncio.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result(10)

    first = asyncio.create_task(turns.in_thread(work))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    with pytest.raises(Refused):
        await turns.in_thread(lambda: None)
    release.set()
    async with asyncio.timeout(20):
        while True:
            try:
                await turns.in_thread(lambda: None)
                break
            except Refused:
                await asyncio.sleep(0.01)


async def test_a_model_that_fails_is_an_error_of_the_servers(models: House) -> None:
    """500 in OpenAI's shape, without the reason; the next request is served."""
    form = aiohttp.FormData()
    form.add_field("file", b"something else", filename="a.wav")
    async with models.client.post(f"{models.url}/audio/transcriptions", data=form) as reply:
        assert (reply.status, (await reply.json())["error"]["message"]) == (500, "The local model failed.")
    assert (await models.transcribe())[0] == 200
