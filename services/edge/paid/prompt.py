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
    """Tokens of all that a request has the model read, but for images, sounds and files. Blocks.

    That is the messages' or items' texts, names and tool calls, instructions, prompts, the tools, and the schema that
    the answer must have.
    """
    decoded: object = msgspec.json.decode(body)
    fields = decoded if isinstance(decoded, dict) else {}
    messages = fields.get("messages")
    known = [message for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []
    texts = [text for message in known for text in _texts(message)]
    texts += [msgspec.json.encode(fields[name]).decode() for name in ("tools", "functions") if fields.get(name)]
    texts += _inner_texts(fields.get("system"))
    styles = [style.get("format") for name in ("text", "output_config") if isinstance(style := fields.get(name), dict)]
    for wanted in (fields.get("response_format"), *styles):
        if isinstance(wanted, dict) and wanted.get("type") == "json_schema":
            texts.append(msgspec.json.encode(wanted).decode())
    tokens = TOKENS_PER_MESSAGE * len(known)
    for name in ("instructions", "input", "prompt", "suffix"):
        given, more = _input(fields.get(name))
        texts, tokens = texts + given, tokens + more
    return count_tokens("\n".join(texts), model) + tokens


def cautiously(tokens: int, model: str) -> int:
    """As many as were counted, or half as many again where the tokenizer is only near the model's."""
    return tokens if _EXACTLY_COUNTED.search(model) else tokens + tokens // 2


def _texts(message: dict[str, object]) -> list[str]:
    name = message.get("name")
    return [*texts_of(message), *_block_texts(message.get("content")), *_strings(name)]


def _block_texts(content: object) -> list[str]:
    """What Anthropic's blocks have a model read beside texts of their own: calls, results of tools, documents."""
    found: list[str] = []
    for block in (each for each in content if isinstance(each, dict)) if isinstance(content, list) else ():
        kind, source = block.get("type"), block.get("source")
        if kind == "tool_use":
            found += [*_strings(block.get("name")), msgspec.json.encode(block.get("input")).decode()]
        elif kind in ("tool_result", "search_result"):
            found += _inner_texts(block.get("content"))
        elif kind == "document" and isinstance(source, dict):
            found += (
                _strings(source.get("data")) if source.get("type") == "text" else _inner_texts(source.get("content"))
            )
        found += [text for name in ("title", "context") for text in _strings(block.get(name))]
    return found


def _inner_texts(content: object) -> list[str]:
    return [*texts_of({"content": content}), *_block_texts(content)]


def _strings(value: object) -> list[str]:
    return [value] if isinstance(value, str) else []


def _input(value: object) -> tuple[list[str], int]:
    """The texts in an `input` or a `prompt`, and how many tokens there are beside: some are given as tokens already."""
    if isinstance(value, str):
        return [value], 0
    if not isinstance(value, list):
        return [], 0
    tokens = sum(1 if isinstance(each, int) else len(each) for each in value if isinstance(each, (int, list)))
    items = [each for each in value if isinstance(each, dict)]
    texts = [each for each in value if isinstance(each, str)]
    return [*texts, *(text for item in items for text in _item_texts(item))], tokens + TOKENS_PER_MESSAGE * len(items)


def _item_texts(item: dict[str, object]) -> list[str]:
    """The texts of a response's item, or of a part that is moderated."""
    plain = [item.get(name) for name in ("name", "arguments", "input", "text")]
    parts = [text for name in ("content", "summary", "output") for text in texts_of({"content": item.get(name)})]
    return [*parts, *(text for text in plain if isinstance(text, str))]
