"""What an instance without a config file offers: the sandbox, and every provider that the environment has a key for.

The file that all services then read is put together from `builtin.yaml` and the files of `offers/`, as text, so that
it keeps their remarks (where each price comes from) and can be copied as a beginning of one's own. It refers to keys
by the names of their variables and holds none.
"""

import json
import re
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit

FOLDER = Path(__file__).with_name("offers")
KEYS = {
    "openai": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "deepseek": "DEEPSEEK_API_KEY",
    "openrouter": "OPENROUTER_API_KEY",
    "ollama": "OLLAMA_HOST",
}
OWN_KEY = "tb_live_"
"""How keys of a Tollbridge begin: a client's variable that is set for one names no provider."""
OLLAMA_PORT = 11434
OLLAMA_WITHIN_S = 1.5
MAX_OLLAMA_BYTES = 4 << 20
MAX_OLLAMA_MODELS = 200
OLLAMA_UNKNOWN = ("llama3.2",)
"""What is offered where Ollama doesn't tell what it has: the model of its own first example."""

_TOP_LEVEL = re.compile(r"^([a-z_]+):(.*)$")
_PLAIN_PLACE = re.compile(r"[^\s\x00-\x1f\x7f@?#$]+")
_OLLAMA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")


def offered(environ: Mapping[str, str]) -> list[str]:
    """The providers that the environment has a key for, best known first."""
    found = [name for name, key in KEYS.items() if environ.get(key) and not environ[key].startswith(OWN_KEY)]
    return [name for name in found if name != "ollama" or ollama_url(environ[KEYS[name]])]


def compose(base: str, names: Sequence[str], *, environ: Mapping[str, str]) -> str:
    """The config file's text: what `base` says, and before it the providers and models of these offers."""
    parts = [(FOLDER / f"{name}.yaml").read_text() for name in names]
    if "ollama" in names:
        place = names.index("ollama")
        parts[place] = _about_ollama(parts[place], environ["OLLAMA_HOST"], taken=base + "".join(parts))
    blocks = [_blocks(part) for part in parts]
    composed = _blocks(base)
    for key in ("providers", "models"):
        first, _, rest = composed[key].partition("\n")
        offers = "".join((block["#"] if key == "providers" else "") + _items(block.get(key, "")) for block in blocks)
        composed[key] = f"{first}\n{offers}{rest}"
    return "".join(composed.values())


def ollama_url(host: str) -> str:
    """Where Ollama serves OpenAI's API, by its own variable: a host, a port or both, with or without a scheme.

    Empty for what is no such place, and for one with a password, since it would be written into the config.
    """
    url = host.strip()
    scheme, found, place = url.partition("://")
    if not found:
        scheme, place = "http", url
    place = place.rstrip("/")
    if place.startswith(":"):
        place = "127.0.0.1" + place
    name, _, path = place.partition("/")
    name = re.sub(r"^(0\.0\.0\.0|\[::\])(?=:|$)", "127.0.0.1", name)
    try:
        parts = urlsplit(f"//{name}")
        if scheme == "http" and parts.port is None:
            name = f"{name}:{OLLAMA_PORT}"
    except ValueError:
        return ""
    if scheme not in ("http", "https") or not parts.hostname or not _PLAIN_PLACE.fullmatch(place):
        return ""
    return f"{scheme}://{name}{'/' + path if path else ''}/v1"


def _about_ollama(text: str, host: str, *, taken: str) -> str:
    """The offer with its address and what it has; a name that stands anywhere in `taken` becomes no alias."""
    url = ollama_url(host)
    rows = [
        _ollama_model(name, is_embedding=is_embedding, alias="" if name in taken else name)
        for name, is_embedding in ollama_models(url)
    ]
    return text.replace('"@OLLAMA_BASE_URL@"', json.dumps(url)) + "".join(rows)


def ollama_models(url: str) -> list[tuple[str, bool]]:
    """The names of the models that it has, and whether they make embeddings; a guess when it doesn't tell in time."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url.removesuffix("/v1") + "/api/tags", timeout=OLLAMA_WITHIN_S) as reply:
            listed = json.loads(reply.read(MAX_OLLAMA_BYTES))["models"][:MAX_OLLAMA_MODELS]
            named = {str(row["name"]).removesuffix(":latest"): "embed" in json.dumps(row).lower() for row in listed}
    except (HTTPException, URLError, OSError, ValueError, KeyError, TypeError):
        return [(name, False) for name in OLLAMA_UNKNOWN]
    return [(name, is_embedding) for name, is_embedding in named.items() if _OLLAMA_NAME.fullmatch(name)]


def _ollama_model(name: str, *, is_embedding: bool, alias: str) -> str:
    tokens = "input: 0" if is_embedding else "input: 0, output: 0"
    lines = [
        f"  - id: {json.dumps(f'ollama/{name}')}",
        f"    aliases: [{json.dumps(alias)}]" if alias else "",
        "    owned_by: ollama",
        f"    category: {'embedding' if is_embedding else 'chat'}",
        "" if is_embedding else "    capabilities: [chat, tools]",
        "" if is_embedding else "    context: 131072",
        "" if is_embedding else "    max_output: 4096",
        f"    routes: [{{provider: ollama, model: {json.dumps(name)}, cost: {{{tokens}}}}}]",
        f"    price: {{{'input: 0.01' if is_embedding else 'input: 0.05, output: 0.10'}}}",
    ]
    return "".join(f"{line}\n" for line in lines if line)


def _items(block: str) -> str:
    return block.partition("\n")[2]


def _blocks(text: str) -> dict[str, str]:
    """A file's text by top-level key; under `#` what stands before the first one."""
    blocks = {"#": ""}
    key = "#"
    for line in text.splitlines(keepends=True):
        found = _TOP_LEVEL.match(line)
        if found:
            key = found[1]
            blocks[key] = ""
        blocks[key] += line
    return blocks
