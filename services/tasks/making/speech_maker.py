"""Speech over OpenAI's protocol: one call for a short text, for a long one a call a piece, joined as samples."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Sequence

from pricing.tokens import Tokens, Units
from services.tasks.files.results import MAX_FILE_BYTES
from services.tasks.making.kind import File, Making, Product, ResultTooLarge
from services.tasks.making.speech_order import SpeechOrder, piece_of
from upstream.openai import speech
from upstream.openai.speech import SpeechStream
from upstream.outcome import AnswerTooLarge, AttemptFailed, Outcome
from upstream.sound_encoder import CONTENT_TYPES, FileEncoder, plain_samples
from upstream.sound_meters import kind_of
from upstream.usage import Captured, count_tokens

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""A provider that is busy in the middle of a text is waited for so often, at least so long."""
MAX_PAUSE_S = 30.0


class SpeechMaker:
    """Speaks."""

    async def make(self, making: Making[SpeechOrder]) -> Product:
        """Calls once for each piece. Raises AttemptFailed, AnswerTooLarge, ResultTooLarge."""
        order = making.wanted
        said: list[Captured] = []
        if len(order.pieces) == 1:
            sound = await _spoken(making, order.pieces[0], said)
            return _product(order, sound, said)
        with contextlib.closing(FileEncoder(order.spoken.wanted)) as encoder:
            for number, piece in enumerate(order.pieces, start=1):
                part = dataclasses.replace(making, idempotency_key=f"{making.idempotency_key}-{number}")
                sound = await _spoken_in_turn(part, piece, said)
                samples = await asyncio.to_thread(plain_samples, sound)
                size = await asyncio.to_thread(encoder.feed, samples)
                if size > MAX_FILE_BYTES:
                    raise ResultTooLarge(_product(order, b"", said))
                making.progress(number / (len(order.pieces) + 1))
            return _product(order, await asyncio.to_thread(encoder.end), said)

    async def cancel(self, making: Making[SpeechOrder]) -> None:
        """There is no job at the provider, only calls."""


async def _spoken_in_turn(making: Making[SpeechOrder], text: str, said: list[Captured]) -> bytes:
    """As `_spoken`. Once something is spoken, a busy provider is waited for: who begins anew pays for that again."""
    for pause_s in PAUSES_S if said else ():
        try:
            return await _spoken(making, text, said)
        except AttemptFailed as failure:
            if failure.outcome is not Outcome.RATE_LIMITED:
                raise
            await asyncio.sleep(max(pause_s, min(failure.retry_after_s, MAX_PAUSE_S)))
    return await _spoken(making, text, said)


async def _spoken(making: Making[SpeechOrder], text: str, said: list[Captured]) -> bytes:
    """The sound of one piece; what the provider said of it is added to `said`, or counted where it said nothing.

    Raises AnswerTooLarge for more than can be kept: of samples, which become smaller, twice as much is taken.
    """
    order, rates = making.wanted, making.route.price.rates
    by_token = speech.is_by_token(rates)
    spoken = piece_of(order, text)
    fields = {**order.fields, "input": text, "response_format": spoken.wanted}
    call = speech.prepare(fields, making.route, request_id=making.task_id, as_events=by_token)
    reader = SpeechStream(spoken=spoken, rates=rates, as_events=False, may_be_events=by_token)
    response = await making.send(call)
    sound = bytearray()
    try:
        async for data in response.chunks():
            sound += reader.feed(data)
            if len(sound) > (MAX_FILE_BYTES if len(order.pieces) == 1 else 2 * MAX_FILE_BYTES):
                raise AnswerTooLarge("the provider's sound is larger than what can be kept")
            if reader.ended:
                break
        else:
            reader.at_end()
    finally:
        response.close()
    captured = reader.finish()
    if not captured.complete:
        raise AttemptFailed(Outcome.SERVER_ERROR, captured.error or "the provider's sound ended before its end")
    if by_token and captured.tokens is None:
        heard = await asyncio.to_thread(count_tokens, text, making.route.provider_model)
        tokens = Tokens(input=heard, audio_output=captured.sound_tokens)
        captured = dataclasses.replace(captured, so_far=tokens)
    said.append(captured)
    return bytes(sound + reader.closing(tokens=Tokens(), cost=None))


def _product(order: SpeechOrder, sound: bytes, said: Sequence[Captured]) -> Product:
    """All pieces together; of each what was reported, or else counted."""
    units = Units(
        requests=1,
        characters=sum(each.units.characters for each in said),
        milliseconds=sum(each.units.milliseconds for each in said),
    )
    used = [each.tokens or each.so_far or Tokens() for each in said]
    costs = [each.reported_cost_nano_usd for each in said if each.reported_cost_nano_usd is not None]
    captured = Captured(
        tokens=Tokens(input=sum(each.input for each in used), audio_output=sum(each.audio_output for each in used)),
        reported_cost_nano_usd=sum(costs) if len(costs) == len(said) else None,
        complete=True,
        implausible=any(each.implausible for each in said),
    )
    kind = kind_of(sound[:16]) if len(order.pieces) == 1 and order.spoken.wanted != "pcm" else None
    file = File(data=sound, content_type=CONTENT_TYPES[kind or order.spoken.wanted])
    is_counted = any(each.tokens is None for each in said)
    return Product(files=(file,), units=units, captured=captured, is_counted=is_counted)
