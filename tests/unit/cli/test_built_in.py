"""What is offered without a config file: by the keys in the environment, at prices that name their source."""

import http.server
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from chassis.config import ConfigError, read
from cli.config_check import check
from cli.up.built_in import FOLDER, KEYS, compose, offered, ollama_models, ollama_url
from cli.up.options import BUILT_IN_CONFIG
from services.router.config import parse
from services.router.registry import Registry

ROOT = Path(__file__).resolve().parents[3]
BASE = BUILT_IN_CONFIG.read_text()
NOBODY = "127.0.0.1:1"
ENVIRON = {name: NOBODY if name == "OLLAMA_HOST" else f"canary-{name}" for name in KEYS.values()}


def registry(tmp_path: Path, environ: dict[str, str]) -> Registry:
    path = tmp_path / "config.yaml"
    path.write_text(compose(BASE, offered(environ), environ=environ))
    check(path, environ=environ)
    return parse(read(path), environ).registry


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("openai", "gpt-4o-mini"),
        ("openai", "text-embedding-3-small"),
        ("anthropic", "claude-haiku-4-5"),
        ("deepseek", "deepseek-flash"),
        ("openrouter", "openai/gpt-4o-mini"),
        ("ollama", "llama3.2"),
        ("ollama", "ollama/anything:7b"),
    ],
)
def test_a_key_in_the_environment_offers_its_providers_models(tmp_path: Path, name: str, model: str) -> None:
    """Beside the sandbox; the key is the variable's, and no other provider is there."""
    environ = {KEYS[name]: ENVIRON[KEYS[name]]}
    found = registry(tmp_path, environ)
    assert [provider.id for provider in found.providers] == [name, "sandbox"]
    offer = found.find(model)
    assert offer is not None
    assert offer.is_configured
    assert offer.current_price is not None
    account = offer.routes[0].provider.accounts[0]
    assert account.api_key == ("ollama" if name == "ollama" else environ[KEYS[name]])
    assert found.find("sandbox-chat") is not None


def test_all_keys_together_offer_everything(tmp_path: Path) -> None:
    """No two offers are in each other's way, and the first request is shown with a model that can be asked for."""
    found = registry(tmp_path, ENVIRON)
    assert [provider.id for provider in found.providers] == [*KEYS, "sandbox"]
    shown = check(tmp_path / "config.yaml", environ=ENVIRON).demo_model
    assert shown == "gpt-5-mini"
    for name in KEYS:
        alone = check(_written(tmp_path, [name]), environ=ENVIRON).demo_model
        assert registry(tmp_path, ENVIRON).find(alone) is not None


def _written(tmp_path: Path, names: list[str]) -> Path:
    path = tmp_path / "one.yaml"
    path.write_text(compose(BASE, names, environ=ENVIRON))
    return path


def test_the_file_holds_the_names_of_keys_and_never_a_key(tmp_path: Path) -> None:
    """It may be copied, shown and kept."""
    text = compose(BASE, list(KEYS), environ=ENVIRON)
    assert "canary" not in text
    assert "${OPENAI_API_KEY}" in text
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        check(_written(tmp_path, ["openai"]), environ={})


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_every_offer_names_the_source_of_its_prices_and_their_date(path: Path) -> None:
    """In its first lines, which are also in the file that the services read."""
    head = re.split(r"(?m)^(?:providers|models):", path.read_text())[0]
    assert re.search(r"\d{4}-\d\d-\d\d", head)
    assert re.search(r"Source: \S+\.\w+/|are ours", head)
    assert head in compose(BASE, [path.stem], environ=ENVIRON)


def test_list_prices_are_passed_on_unchanged(tmp_path: Path) -> None:
    """Who offers a provider's models to themselves pays what the provider takes."""
    for model in registry(tmp_path, ENVIRON).models:
        if model.routes and model.routes[0].provider.id not in ("sandbox", "ollama"):
            assert model.routes[0].price.markup_ppm == 1_000_000, model.id
            rates = model.routes[0].price.rates
            assert rates.input or rates.per_million_characters, model.id


@pytest.mark.parametrize("environ", [{}, {"OPENAI_API_KEY": ""}, {"OPENAI_API_KEY": "tb_live_" + "x" * 43}])
def test_without_a_providers_key_nothing_is_added(environ: dict[str, str]) -> None:
    """An empty variable is none, and a client's key of this very gateway is no provider's."""
    assert offered(environ) == []


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:11434/v1"),
        ("localhost:8000", "http://localhost:8000/v1"),
        (":8000", "http://127.0.0.1:8000/v1"),
        ("0.0.0.0", "http://127.0.0.1:11434/v1"),
        ("http://10.0.0.7:11434/", "http://10.0.0.7:11434/v1"),
        ("https://ollama.example", "https://ollama.example/v1"),
        ("[::1]:8000", "http://[::1]:8000/v1"),
        ("[::]", "http://127.0.0.1:11434/v1"),
        ("http://h/below", "http://h:11434/below/v1"),
    ],
)
def test_ollamas_host_is_read_as_ollama_reads_it(host: str, url: str) -> None:
    """A host, a port or both; what a server listens on everywhere is asked for here."""
    assert ollama_url(host) == url


@pytest.mark.parametrize(
    "host", ["localhost:abc", "my host", "http://me:secret@h:1", " ", "http://", "ftp://h", "h?a=1", "[::1", "${HOME}"]
)
def test_what_is_no_place_offers_nothing(host: str) -> None:
    """All else starts; and no password is written into a config."""
    assert ollama_url(host) == ""
    assert offered({"OLLAMA_HOST": host, "OPENAI_API_KEY": "sk-x"}) == ["openai"]


def test_another_server_in_ollamas_place_stops_nothing() -> None:
    """What does not speak HTTP there is an Ollama that doesn't tell what it has."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"-ERR unknown command\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        assert ollama_models(f"http://127.0.0.1:{server.getsockname()[1]}/v1") == [("llama3.2", False)]
        thread.join(5)


@pytest.fixture
def ollama() -> Iterator[str]:
    """An Ollama that has three models, one of them named as another offer's, and one that can't be written down."""
    rows = [
        {"name": "qwen3:4b", "details": {"family": "qwen3"}},
        {"name": "gpt-4o:latest", "details": {"family": "llama"}},
        {"name": "nomic-embed-text:latest", "details": {"family": "nomic-bert"}},
        {"name": 'bad", x: "', "details": {}},
    ]

    class Tags(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"models": rows}).encode()
            self.send_response(200 if self.path == "/api/tags" else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tags)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_what_ollama_has_is_in_the_list(tmp_path: Path, ollama: str) -> None:
    """By its own name and below `ollama/`; a name that means another provider's model already stays that one's."""
    found = registry(tmp_path, {**ENVIRON, "OLLAMA_HOST": ollama})
    names = [model.id for model in found.models if model.id.startswith("ollama/")]
    assert names == ["ollama/*", "ollama/qwen3:4b", "ollama/gpt-4o", "ollama/nomic-embed-text"]
    qwen, gpt, embedding = (found.find(name) for name in ("qwen3:4b", "gpt-4o", "nomic-embed-text"))
    assert qwen is not None and gpt is not None and embedding is not None  # noqa: PT018  # for the types
    assert (qwen.id, gpt.id, embedding.category) == ("ollama/qwen3:4b", "gpt-4o", "embedding")
    assert qwen.routes[0].provider.base_url == f"http://{ollama}/v1"
    assert found.find("llama3.2") is None


@pytest.mark.parametrize(
    ("name", "model"),
    [("openrouter", "openai/gpt-4o-mini"), ("anthropic", "claude-haiku-4-5"), ("ollama", "llama3.2")],
)
def test_the_examples_for_providers_pass_config_check(name: str, model: str) -> None:
    """With a key and without one."""
    path = ROOT / "examples" / f"{name}.yaml"
    for environ in ({}, ENVIRON):
        check(path, environ=environ)
        found = parse(read(path), environ).registry.find(model)
        assert found is not None
        assert found.is_configured
