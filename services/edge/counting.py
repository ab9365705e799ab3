"""Counts that stand in where a provider reports none: exact tokenizer, in a thread, never on the loop."""

import asyncio
import dataclasses
import re
from collections.abc import Callable

import msgspec

from pricing.tokens import Tokens, Units
from services.edge.settlement import EVIDENCE_COUNTED, Use
from upstream.openai.chat_stream import texts_of
from upstream.usage import Captured, UsageLimits, count_tokens

TOKENS_PER_MESSAGE = 4
"""What chat templates put around a message."""
_EXACTLY_COUNTED = re.compile(r"(?:^|/)(?:gpt-|chatgpt-|o[1-9])")
"""OpenAI's models. Others' tokenizers are near, and rarely make half as many tokens again of the same text."""


async def counted(
    *, body: bytes, text: Callable[[], str], provider_model: str, captured: Captured, limits: UsageLimits
) -> Use:
    """What a request used, counted: its prompt (or what the provider said of it so far) and the delivered `text`.

    Never more than what was reserved: a tokenizer that disagrees with the provider's is our loss. Images, sounds and
    files can't be counted here. They are taken for the model's limit for each; and for all that was reserved for them
    when the provider says that there was more input than that.
    """
    tokens = await asyncio.to_thread(_count, body, text, provider_model, captured, limits)
    return Use(
        tokens=tokens,
        units=Units(requests=1),
        evidence=EVIDENCE_COUNTED,
        generation_id=captured.generation_id,
        implausible=captured.implausible,
    )


def _count(body: bytes, text: Callable[[], str], model: str, captured: Captured, limits: UsageLimits) -> Tokens:
    so_far = captured.so_far
    output = min(count_tokens(text(), model), limits.max_output)
    if so_far is not None and so_far.prompt:
        # Input is known by class from the stream's start: what was read from a cache must not cost as if it were not.
        return dataclasses.replace(so_far, output=output, reasoning=0, audio_output=0)
    parts = limits.part_tokens if captured.beyond_input else limits.usual_part_tokens
    return Tokens(input=min(count_prompt(body, model) + parts, limits.max_input), output=output)


def count_prompt(body: bytes, model: str) -> int:
    """Tokens of all that a chat request has the model read, but for images, sounds and files. Blocks.

    That is the messages' texts, names and tool calls, the tools, and the schema that the answer must have.
    """
    decoded: object = msgspec.json.decode(body)
    fields = decoded if isinstance(decoded, dict) else {}
    messages = fields.get("messages")
    known = [message for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []
    texts = [text for message in known for text in _texts(message)]
    texts += [msgspec.json.encode(fields[name]).decode() for name in ("tools", "functions") if fields.get(name)]
    wanted = fields.get("response_format")
    if isinstance(wanted, dict) and wanted.get("type") == "json_schema":
        texts.append(msgspec.json.encode(wanted).decode())
    return count_tokens("\n".join(texts), model) + TOKENS_PER_MESSAGE * len(known)


def most_prompt_tokens(body: bytes, model: str) -> int:
    """As many tokens as `count_prompt` finds, or half as many again where its tokenizer is only near. Blocks."""
    tokens = count_prompt(body, model)
    return tokens if _EXACTLY_COUNTED.search(model) else tokens + tokens // 2


def _texts(message: dict[str, object]) -> list[str]:
    name = message.get("name")
    return [*texts_of(message), *([name] if isinstance(name, str) else [])]
