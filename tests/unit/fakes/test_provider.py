"""The fake provider, spoken to by the real SDKs, and its log."""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

ROOT = Path(__file__).resolve().parents[3]


class Running:
    """The provider's address and its log."""

    def __init__(self, *, port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._log = log

    def lines(self, request_id: str) -> list[dict[str, Any]]:
        """What the log says of the request, once it has ended."""
        deadline = time.monotonic() + 10
        while True:
            every = [json.loads(line) for line in self._log.read_text().splitlines()]
            mine = [line for line in every if line["request_id"] == request_id]
            if mine and mine[-1]["event"] == "ended":
                return mine
            assert time.monotonic() < deadline, mine
            time.sleep(0.01)


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("provider")
    log, ready = folder / "log", folder / "ready"
    command = [sys.executable, "-m", "tests.fakes.provider", "--log", str(log), "--ready", str(ready)]
    process = subprocess.Popen(command, cwd=ROOT)
    deadline = time.monotonic() + 20
    while not ready.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield Running(port=json.loads(ready.read_text())["port"], log=log)
    process.terminate()
    assert process.wait(10) == 0


@pytest.fixture
def as_openai(provider: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{provider.url}/v1", api_key="any", max_retries=0, timeout=10) as client:
        yield client


@pytest.fixture
def as_anthropic(provider: Running) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=provider.url, api_key="any", max_retries=0, timeout=10) as client:
        yield client


def said(**script: Any) -> list[Any]:
    return [{"role": "user", "content": "hello #script " + json.dumps(script)}]


def test_the_openai_sdk_reads_a_whole_answer(as_openai: openai.OpenAI, provider: Running) -> None:
    """Text and usage arrive as scripted, and the log has the same tokens, each in one class."""
    answer = as_openai.chat.completions.create(
        model="upstream-alpha",
        messages=said(chunks=3, input_tokens=11, cached_tokens=4, output_tokens=9),
        user="u1",
        extra_headers={"x-request-id": "whole"},
    )
    assert answer.choices[0].message.content == "word1 word2 word3 "
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (11, 9, 20)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 4
    arrived, ended = provider.lines("whole")
    assert (arrived["event"], arrived["user"], arrived["model"]) == ("arrived", "u1", "upstream-alpha")
    assert ended["finished"] is True
    assert ended["tokens"] == {"input": 7, "cached_input": 4, "cache_write": 0, "output": 9}
    assert arrived["id"] == ended["id"]


def test_the_openai_sdk_reads_a_stream(as_openai: openai.OpenAI, provider: Running) -> None:
    """Pieces come one by one, then the finish, then usage when it was asked for."""
    stream = as_openai.chat.completions.create(
        model="upstream-alpha",
        messages=said(chunks=20, gap_ms=1, output_tokens=23),
        stream=True,
        stream_options={"include_usage": True},
        extra_headers={"x-request-id": "stream"},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "".join(f"word{number} " for number in range(1, 21))
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 23
    ended = provider.lines("stream")[-1]
    assert (ended["finished"], ended["chunks_sent"], ended["usage_sent"]) == (True, 20, True)


def test_the_anthropic_sdk_reads_both_kinds(as_anthropic: anthropic.Anthropic, provider: Running) -> None:
    """Cache reads and writes stand beside the input, in a whole answer and at a stream's two ends."""
    script = {"input_tokens": 11, "cached_tokens": 3, "cache_write_tokens": 2, "output_tokens": 23}
    whole = as_anthropic.messages.create(
        model="upstream-claudius", max_tokens=100, messages=said(**script), extra_headers={"x-request-id": "a1"}
    )
    assert whole.usage.input_tokens == 11
    assert whole.usage.cache_read_input_tokens == 3
    assert whole.usage.cache_creation_input_tokens == 2
    with as_anthropic.messages.stream(
        model="upstream-claudius", max_tokens=100, messages=said(**script), extra_headers={"x-request-id": "a2"}
    ) as stream:
        assert "".join(stream.text_stream) == "word1 word2 word3 word4 word5 "
        final = stream.get_final_message()
    assert (final.usage.input_tokens, final.usage.output_tokens, final.stop_reason) == (11, 23, "end_turn")
    wanted = {"input": 11, "cached_input": 3, "cache_write": 2, "output": 23}
    assert [provider.lines(name)[-1]["tokens"] for name in ("a1", "a2")] == [wanted, wanted]


def test_scripted_refusals_reach_the_sdks(
    as_openai: openai.OpenAI, as_anthropic: anthropic.Anthropic, provider: Running
) -> None:
    """A status, its Retry-After and its message in each protocol's shape."""
    with pytest.raises(openai.RateLimitError) as limited:
        as_openai.chat.completions.create(
            model="m", messages=said(status=429, retry_after=2), extra_headers={"x-request-id": "r"}
        )
    assert limited.value.response.headers["retry-after"] == "2"
    with pytest.raises(anthropic.InternalServerError):
        as_anthropic.messages.create(model="m", max_tokens=5, messages=said(status=529))
    ended = provider.lines("r")[-1]
    assert (ended["status"], ended["finished"], ended["cut"]) == (429, False, "refused")


def test_a_broken_stream_is_cut_by_the_script(as_openai: openai.OpenAI, provider: Running) -> None:
    """The connection breaks after the scripted number of pieces, and the log says that it was us."""
    stream = as_openai.chat.completions.create(
        model="m",
        messages=said(chunks=9, fail_after_chunks=3, gap_ms=20),
        stream=True,
        extra_headers={"x-request-id": "b"},
    )
    with pytest.raises((openai.APIConnectionError, httpx.HTTPError)):
        list(stream)
    ended = provider.lines("b")[-1]
    assert (ended["finished"], ended["cut"], ended["chunks_sent"]) == (False, "script", 3)


async def test_a_caller_that_leaves_is_logged_with_how_far_it_came(provider: Running) -> None:
    """Hanging after two pieces, the provider notices that its caller is gone."""
    body = {"model": "m", "stream": True, "messages": said(chunks=9, hang_after_chunks=2)}
    async with httpx.AsyncClient() as client:
        url = f"{provider.url}/v1/chat/completions"
        async with client.stream("POST", url, json=body, headers={"x-request-id": "gone"}) as reply:
            seen = b""
            async for piece in reply.aiter_bytes():
                seen += piece
                if b"word2" in seen:
                    break
    ended = (await asyncio.to_thread(provider.lines, "gone"))[-1]
    assert (ended["finished"], ended["cut"], ended["chunks_sent"]) == (False, "client", 2)


def test_what_else_a_script_can_say(as_openai: openai.OpenAI, provider: Running) -> None:
    """No usage, broken JSON, an error inside the stream, a late first byte, images and the models list."""
    silent = as_openai.chat.completions.create(model="m", messages=said(no_usage=True))
    assert silent.usage is None
    with pytest.raises((openai.APIResponseValidationError, json.JSONDecodeError)):
        as_openai.chat.completions.create(model="m", messages=said(malformed=True))
    with pytest.raises(openai.APIError, match="scripted failure"):
        list(as_openai.chat.completions.create(model="m", messages=said(error_after_chunks=2), stream=True))
    began = time.monotonic()
    as_openai.chat.completions.create(model="m", messages=said(first_byte_ms=100))
    assert time.monotonic() - began >= 0.1
    made = as_openai.images.generate(model="i", prompt="a cat", n=2, extra_headers={"x-request-id": "i"})
    assert made.data is not None
    assert len(made.data) == 2
    assert provider.lines("i")[-1]["images"] == 2
    assert [model.id for model in as_openai.models.list()] == ["upstream-alpha", "upstream-claudius"]


def test_a_misspelt_script_is_refused(provider: Running) -> None:
    """A typo fails the test that made it."""
    body = {"model": "m", "messages": said(chunkz=3)}
    with contextlib.closing(httpx.Client()) as client:
        assert client.post(f"{provider.url}/v1/chat/completions", json=body).status_code == 500
