"""The built-in provider: deterministic, in this process, and honest in its text about being no model.

It takes the same calls as the OpenAI wire sends and gives the same answers, so nothing above it knows the difference.
A directive on a line of the last user message (or of an image prompt) scripts it, such as
`#sandbox {"chunks": 3, "gap_ms": 10}`; see `Script`.
Its token rule is simple on purpose, so that a test can say what a request costs: a word is a token.
"""

import asyncio
import base64
import functools
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import msgspec
from multidict import CIMultiDict, CIMultiDictProxy

from upstream.aac import AacFailed
from upstream.client import HttpCall, Timeouts, UpstreamResponse
from upstream.form import FormProblem, read_form
from upstream.outcome import AnswerTooLarge, AttemptFailed, Outcome, TotalTimeReached
from upstream.pictures import WrongWish
from upstream.sandbox.answers import ChatAnswer
from upstream.sandbox.completions import CompletionAnswer, CompletionRequest
from upstream.sandbox.images import ImageRequest, image_answer
from upstream.sandbox.moderations import ModerationRequest, moderation_answer
from upstream.sandbox.script import ChatRequest, Script, script_of
from upstream.sandbox.sounds import SoundAnswer
from upstream.sandbox.speech import BadVoice, SpeechAnswer, SpeechRequest
from upstream.sandbox.vectors import EmbeddingsRequest, embeddings_answer
from upstream.sandbox.videos import clip, read_request, shown, ticket, ticket_of
from upstream.sound_encoder import FormatMissing

_JSON = "application/json"
_EVENTS = "text/event-stream"
_OPENROUTER = "//openrouter.ai/"


class Sandbox:
    """Answers calls as a provider would. Has no state, so one serves any number of requests."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock

    async def send(self, call: HttpCall, *, timeouts: Timeouts) -> UpstreamResponse:
        """Like `UpstreamClient.send`: the head of the answer, after `first_byte_ms`. Raises AttemptFailed."""
        if call.url.endswith("/completions"):
            is_chat = call.url.endswith("/chat/completions")
            kinds = (ChatRequest, ChatAnswer) if is_chat else (CompletionRequest, CompletionAnswer)
            own = functools.partial(_id, "chatcmpl" if is_chat else "cmpl")
            made = _openrouter_id if _OPENROUTER in call.url else own
            return await self._chat(call.body, timeouts, kind=kinds[0], answer_kind=kinds[1], make_id=made)
        if call.url.endswith(("/audio/transcriptions", "/audio/translations")):
            return await self._sound(call, timeouts)
        if "/videos" in call.url:
            return await self._videos(call, timeouts)
        answers = (
            ("/images/generations", self._images),
            ("/embeddings", self._embeddings),
            ("/audio/speech", self._speech),
            ("/moderations", self._moderations),
        )
        for ending, answer in answers:
            if call.url.endswith(ending):
                return await answer(call.body, timeouts)
        return _refusal(404, "the sandbox does not offer this", timeouts)

    async def _chat(
        self,
        body: bytes,
        timeouts: Timeouts,
        *,
        kind: type[ChatRequest] = ChatRequest,
        answer_kind: Callable[..., ChatAnswer] = ChatAnswer,
        make_id: Callable[[bytes, int], str],
    ) -> UpstreamResponse:
        try:
            request = msgspec.json.decode(body, type=kind)
            script = request.script()
        except msgspec.MsgspecError as error:
            return _refusal(400, f"the sandbox can't read this request: {error}", timeouts)
        await _wait(script.first_byte_ms / 1000, limit_s=timeouts.first_byte_s)
        if script.status >= 300:
            return _refusal(script.status, script.message, timeouts, script=script)
        created = int(self._clock())
        answer = answer_kind(request, script, generation_id=make_id(body, created), created=created)
        if request.stream:
            return _Answer(
                200, _EVENTS, answer.events(), script=script, timeouts=timeouts, breaks_after=script.fail_after_chunks
            )
        broken = script.fail_after_chunks is not None
        return _Answer(
            200, _JSON, [answer.whole()], script=script, timeouts=timeouts, breaks_after=0 if broken else None
        )

    async def _images(self, body: bytes, timeouts: Timeouts) -> UpstreamResponse:
        try:
            request = msgspec.json.decode(body, type=ImageRequest)
            script, wish = script_of(request.prompt), request.wish()
        except (msgspec.MsgspecError, WrongWish) as error:
            return _refusal(400, f"the sandbox can't read this request: {error}", timeouts)
        await _wait(script.first_byte_ms / 1000, limit_s=timeouts.first_byte_s)
        if script.status >= 300:
            return _refusal(script.status, script.message, timeouts, script=script)
        answer = await asyncio.to_thread(image_answer, request, wish, script, created=int(self._clock()))
        return _Answer(200, _JSON, [answer], script=script, timeouts=timeouts)

    async def _videos(self, call: HttpCall, timeouts: Timeouts) -> UpstreamResponse:
        video_id, _, rest = call.url.rpartition("/videos")[2].removeprefix("/").partition("/")
        if not video_id and call.method == "POST":
            return await self._submit_video(call, timeouts)
        job = ticket_of(video_id)
        if job is None:
            return _refusal(404, "the sandbox has no such video", timeouts)
        if call.method == "DELETE":
            gone = msgspec.json.encode({"id": video_id, "object": "video.deleted", "deleted": True})
            return _Answer(200, _JSON, [gone], script=Script(), timeouts=timeouts)
        if rest == "content":
            return _Answer(200, "video/mp4", [await asyncio.to_thread(clip, job)], script=Script(), timeouts=timeouts)
        return _Answer(200, _JSON, [shown(job, now_s=self._clock())], script=Script(), timeouts=timeouts)

    async def _submit_video(self, call: HttpCall, timeouts: Timeouts) -> UpstreamResponse:
        try:
            request, script = read_request(call.body, call.headers.get("content-type", ""))
            job = ticket(request, script, now_s=self._clock())
        except (msgspec.MsgspecError, FormProblem, WrongWish) as error:
            return _refusal(400, f"the sandbox can't read this request: {error}", timeouts)
        await _wait(script.first_byte_ms / 1000, limit_s=timeouts.first_byte_s)
        if script.status >= 300:
            return _refusal(script.status, script.message, timeouts, script=script)
        return _Answer(200, _JSON, [shown(job, now_s=self._clock())], script=Script(), timeouts=timeouts)

    async def _embeddings(self, body: bytes, timeouts: Timeouts) -> UpstreamResponse:
        try:
            request = msgspec.json.decode(body, type=EmbeddingsRequest)
            script = script_of("\n".join(request.texts))
        except msgspec.MsgspecError as error:
            return _refusal(400, f"the sandbox can't read this request: {error}", timeouts)
        await _wait(script.first_byte_ms / 1000, limit_s=timeouts.first_byte_s)
        if script.status >= 300:
            return _refusal(script.status, script.message, timeouts, script=script)
        if request.is_too_much:
            return _refusal(400, "the sandbox makes no more than 2048 vectors, or a million numbers", timeouts)
        answer = await asyncio.to_thread(embeddings_answer, request, script)
        return _Answer(200, _JSON, [answer], script=script, timeouts=timeouts)

    async def _moderations(self, body: bytes, timeouts: Timeouts) -> UpstreamResponse:
        try:
            request = msgspec.json.decode(body, type=ModerationRequest)
            script = script_of("\n".join(request.texts))
        except msgspec.MsgspecError as error:
            return _refusal(400, f"the sandbox can't read this request: {error}", timeouts)
        await _wait(script.first_byte_ms / 1000, limit_s=timeouts.first_byte_s)
        if script.status >= 300:
            return _refusal(script.status, script.message, timeouts, script=script)
        answer = await asyncio.to_thread(moderation_answer, request, moderation_id=_id("modr", body, 0))
        return _Answer(200, _JSON, [answer], script=script, timeouts=timeouts)

    async def _sound(self, call: HttpCall, timeouts: Timeouts) -> UpstreamResponse:
        try:
            form = read_form(call.body, call.headers["content-type"])
            fields = dict(form.fields)
            script = script_of(fields.get("prompt", ""))
        except (msgspec.MsgspecError, FormProblem) as error:
            return _refusal(400, f"the sandbox can't read this request: {error}", timeouts)
        await _wait(script.first_byte_ms / 1000, limit_s=timeouts.first_byte_s)
        if script.status >= 300 or not form.files:
            return _refusal(script.status if form.files else 400, script.message, timeouts, script=script)
        answer = SoundAnswer(form, script)
        if fields.get("stream") == "true":
            return _Answer(
                200, _EVENTS, answer.events(), script=script, timeouts=timeouts, breaks_after=script.fail_after_chunks
            )
        return _Answer(200, _JSON, [answer.whole()], script=script, timeouts=timeouts)

    async def _speech(self, body: bytes, timeouts: Timeouts) -> UpstreamResponse:
        try:
            request = msgspec.json.decode(body, type=SpeechRequest)
            script = request.script()
        except msgspec.MsgspecError as error:
            return _refusal(400, f"the sandbox can't read this request: {error}", timeouts)
        await _wait(script.first_byte_ms / 1000, limit_s=timeouts.first_byte_s)
        if script.status >= 300:
            return _refusal(script.status, script.message, timeouts, script=script)
        try:
            answer = await asyncio.to_thread(SpeechAnswer, request, script)
        except BadVoice as error:
            return _refusal(400, str(error), timeouts, param="voice")
        except FormatMissing as error:
            return _refusal(400, f"{error}.", timeouts, param="response_format")
        except AacFailed as error:
            return _refusal(500, f"the sandbox can't speak: {error}", timeouts)
        return _Answer(
            200,
            answer.content_type,
            answer.pieces(),
            script=script,
            timeouts=timeouts,
            breaks_after=script.fail_after_chunks,
        )


class _Answer:
    """An `UpstreamResponse` made of ready chunks, with the script's pauses between them."""

    def __init__(
        self,
        status: int,
        content_type: str,
        chunks: Sequence[bytes],
        *,
        timeouts: Timeouts,
        script: Script,
        breaks_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._status = status
        self._headers = CIMultiDictProxy(CIMultiDict({"content-type": content_type, **(headers or {})}))
        self._chunks = chunks
        self._next = 0
        self._gap_s = script.gap_ms / 1000
        self._timeouts = timeouts
        self._deadline_s = asyncio.get_running_loop().time() + timeouts.total_s
        self._breaks_after = breaks_after
        self._closed = False

    @property
    def status(self) -> int:
        return self._status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._headers

    async def read(self, max_bytes: int) -> bytes:
        body = b"".join([part async for part in self])
        if len(body) > max_bytes:
            raise AnswerTooLarge(f"the provider's answer is larger than {max_bytes} bytes")
        return body

    def chunks(self) -> AsyncIterator[bytes]:
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._closed:
            raise AttemptFailed(Outcome.CANCELLED, "the answer was closed")
        if self._next and self._gap_s and self._next < len(self._chunks):
            await self._pause()
        if self._breaks_after is not None and self._next >= self._breaks_after:
            self.close()
            raise AttemptFailed(Outcome.UNREACHABLE, "the connection to the provider broke")
        if self._next >= len(self._chunks):
            raise StopAsyncIteration
        self._next += 1
        return self._chunks[self._next - 1]

    def close(self) -> None:
        self._closed = True

    async def _pause(self) -> None:
        left_s = self._deadline_s - asyncio.get_running_loop().time()
        if left_s < min(self._gap_s, self._timeouts.idle_s):
            await asyncio.sleep(max(left_s, 0))
            raise TotalTimeReached(Outcome.TIMED_OUT, "the provider's total time is over")
        await _wait(self._gap_s, limit_s=self._timeouts.idle_s)


async def _wait(pause_s: float, *, limit_s: float) -> None:
    if pause_s > limit_s:
        await asyncio.sleep(limit_s)
        raise AttemptFailed(Outcome.TIMED_OUT, "the provider stopped sending")
    if pause_s > 0:
        await asyncio.sleep(pause_s)


def _refusal(
    status: int, message: str, timeouts: Timeouts, *, script: Script | None = None, param: str | None = None
) -> UpstreamResponse:
    script = script or Script()
    body = msgspec.json.encode({"error": {"message": message, "type": "sandbox", "code": status, "param": param}})
    headers = {"retry-after": f"{script.retry_after_s:g}"} if script.retry_after_s else {}
    return _Answer(status, _JSON, [body], timeouts=timeouts, script=script, headers=headers)


def _id(prefix: str, body: bytes, _created: int) -> str:
    return f"{prefix}-{hashlib.sha256(body).hexdigest()[:24]}"


def _openrouter_id(body: bytes, created: int) -> str:
    """What OpenRouter calls its answers, for whom the sandbox stands in while there is no key."""
    letters = base64.b64encode(hashlib.sha256(body).digest(), altchars=b"xy").decode()
    return f"gen-{created}-{letters[:20]}"
