"""How many tokens a request's prompt is, by the tokenizer: exact for OpenAI's models, near for others'.

The body may be of any endpoint's shape: what can be read by a model stands in a few fields, and those that an endpoint
does not have are not there.
"""

import re

import msgspec

from upstream.openai.chat_stream import texts_of
from upstream.usage import count_tokens

TOKENS_PER_MESSAGE = 4
"""What chat templates put around a message."""
_EXACTLY_COUNTED = re.compile(r"(?:^|/)(?:gpt-|chatgpt-|o[1-9])")
"""OpenAI's models. Others' tokenizers are near, and rarely make half as many tokens again of the same text."""


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
    given, tokens = _input(fields.get("input"))
    return count_tokens("\n".join([*texts, *given]), model) + TOKENS_PER_MESSAGE * len(known) + tokens


def cautiously(tokens: int, model: str) -> int:
    """As many as were counted, or half as many again where the tokenizer is only near the model's."""
    return tokens if _EXACTLY_COUNTED.search(model) else tokens + tokens // 2


def _texts(message: dict[str, object]) -> list[str]:
    name = message.get("name")
    return [*texts_of(message), *([name] if isinstance(name, str) else [])]


def _input(value: object) -> tuple[list[str], int]:
    """The texts in an `input`, and how many tokens in it are tokens already: embeddings may be asked for by these."""
    if isinstance(value, str):
        return [value], 0
    if not isinstance(value, list):
        return [], 0
    tokens = sum(1 if isinstance(each, int) else len(each) for each in value if isinstance(each, (int, list)))
    return [each for each in value if isinstance(each, str)], tokens
