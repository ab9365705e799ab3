"""The config file as router reads it: what is refused, where, and what holds when little is said."""

from decimal import Decimal
from pathlib import Path

import pytest

from chassis.config import ConfigError, read
from services.auth import config as auth_config
from services.billing import config as billing_config
from services.edge import config as edge_config
from services.router.config import RouterConfig, parse
from services.tasks import config as tasks_config

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = [*sorted((ROOT / "examples").glob("*.yaml")), ROOT / "cli/up/builtin.yaml"]

GOOD = """\
providers:
  - id: p
    protocol: openai
    base_url: https://api.example.com/v1/
    accounts:
      - {id: p-a, api_key: "${KEY}", slots: 3}
models:
  - id: m
    aliases: [n]
    context: 1000
    routes:
      - {provider: p, model: x, cost: {input: 1, output: 2}}
    price: {markup: 1.3}
slots: {wait_s: 10}
billing: {credit_value: 0.01, welcome_credit: "${NOT_OURS}"}
"""
ENVIRON = {"KEY": "canary-secret-value"}

BAD = [
    ("protocol: openai", "protocol: gopher", "providers[0].protocol", 3),
    ("https://api.example.com/v1/", "ftp://api.example.com", "providers[0].base_url", 4),
    ("https://api.example.com/v1/", "https://me:pw@api.example.com", "providers[0].base_url", 4),
    ("https://api.example.com/v1/", "https://api.example.com/?q=1", "providers[0].base_url", 4),
    ("    base_url: https://api.example.com/v1/\n", "", "providers[0].base_url", 2),
    ("${KEY}", "", "providers[0].accounts[0].api_key", 6),
    ("${KEY}", "${ABSENT}", "providers[0].accounts[0].api_key", 6),
    ("slots: 3", "slots: 0", "providers[0].accounts[0].slots", 6),
    ("slots: 3", "slots: 3, weight: 0", "providers[0].accounts[0].weight", 6),
    ("slots: 3", "colour: red", "providers[0].accounts[0].colour", 6),
    ("slots: 3}", "slots: 3}\n      - {id: p-a, api_key: k}", "providers[0].accounts[1].id", 7),
    ("  - id: p\n", "  - id: p\n    without_key: shrug\n", "providers[0].without_key", 3),
    ("  - id: p\n", "  - id: p\n    on_disconnect: laugh\n", "providers[0].on_disconnect", 3),
    ("  - id: p\n", "  - id: p\n    timeouts: {total: 0}\n", "providers[0].timeouts.total", 3),
    ("  - id: p\n", "  - id: p\n    drain: {seconds: -1}\n", "providers[0].drain.seconds", 3),
    ("  - id: p\n", "  - id: p\n    stream_options: perhaps\n", "providers[0].stream_options", 3),
    ("  - id: m\n", '  - id: "a b"\n', "models[0].id", 8),
    ("aliases: [n]", "aliases: [m]", "models[0].aliases[0]", 9),
    ("context: 1000", "context: -1", "models[0].context", 10),
    ("context: 1000", "category: poetry", "models[0].category", 10),
    ("provider: p,", "provider: q,", "models[0].routes[0].provider", 12),
    ("model: x,", "model: x, weight: 0,", "models[0].routes[0]", 12),
    ("model: x,", "model: x, max_tokens_field: tokens,", "models[0].routes[0].max_tokens_field", 12),
    (", cost: {input: 1, output: 2}", "", "models[0].routes[0].cost", 12),
    ("cost: {input: 1, output: 2}", "cost: {input: 1}", "models[0].routes[0].cost.output", 12),
    ("cost: {input: 1, output: 2}", "cost: {}", "models[0].routes[0].cost.input", 12),
    ("input: 1,", "input: 0.0000000001,", "models[0].routes[0].cost.input", 12),
    ("input: 1,", "input: -1,", "models[0].routes[0].cost.input", 12),
    ("input: 1,", "input: true,", "models[0].routes[0].cost.input", 12),
    ("    price: {markup: 1.3}\n", "", "models[0].price", 8),
    ("{markup: 1.3}", "{}", "models[0].price", 13),
    ("{markup: 1.3}", "{markup: 1.3, per_request: 1}", "models[0].price", 13),
    ("{markup: 1.3}", "{markup: 0}", "models[0].price.markup", 13),
    ("{markup: 1.3}", "{markup: 1.0000001}", "models[0].price.markup", 13),
    ("{markup: 1.3}", "{credits: 0}", "models[0].price.credits", 13),
    ("{markup: 1.3}", "{output: 1}", "models[0].price.input", 13),
    ("{markup: 1.3}", "{input: 1}", "models[0].price.output", 13),
    ("{markup: 1.3}", "{per_request: NaN}", "models[0].price.per_request", 13),
    ("wait_s: 10", "wait_s: 3600", "slots.wait_s", 14),
    ("credit_value: 0.01", "credit_value: 0", "billing.credit_value", 15),
]


def load(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> RouterConfig:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return parse(read(path), ENVIRON if environ is None else environ)


@pytest.mark.parametrize(("old", "new", "key", "line"), BAD, ids=[f"{case[2]}<{case[1][:24]}" for case in BAD])
def test_what_is_wrong_is_named_with_file_line_and_key(tmp_path: Path, old: str, new: str, key: str, line: int) -> None:
    """One thing is wrong, and the operator is told where; no secret is in the message."""
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    error = caught.value
    assert (error.key, error.line) == (key, line), str(error)
    assert "config.yaml" in str(error)
    assert "canary" not in str(error)


def test_the_good_one_is_read_whole(tmp_path: Path) -> None:
    """Provider, account, alias, default field and price come out as written; others' secrets aren't needed."""
    config = load(tmp_path, GOOD)
    model = config.registry.find("n")
    assert model is config.registry.find("m")
    assert model is not None
    route = model.routes[0]
    assert route.provider.base_url == "https://api.example.com/v1"
    assert route.max_tokens_field == "max_tokens"
    assert route.provider.accounts[0].slots == 3
    assert route.price.markup_ppm == 1_300_000
    assert model.bounds.max_output == 1000
    assert "canary" not in repr(config)


def test_openai_itself_wants_max_completion_tokens(tmp_path: Path) -> None:
    """Only api.openai.com gets the newer field by default, and the file may say otherwise."""
    at_openai = GOOD.replace("api.example.com", "api.openai.com")
    model = load(tmp_path, at_openai).registry.find("m")
    assert model is not None
    assert model.routes[0].max_tokens_field == "max_completion_tokens"


@pytest.mark.parametrize(("rule", "protocol", "accounts"), [("omit", "openai", 0), ("sandbox", "sandbox", 1)])
def test_a_missing_key_may_omit_the_provider_or_call_in_the_sandbox(
    tmp_path: Path, rule: str, protocol: str, accounts: int
) -> None:
    """`without_key` decides what a missing variable means; slots stay, and a sandbox costs nobody anything."""
    config = load(tmp_path, GOOD.replace("  - id: p\n", f"  - id: p\n    without_key: {rule}\n"), environ={})
    model = config.registry.find("m")
    assert model is not None
    provider = model.routes[0].provider
    assert (provider.protocol, len(provider.accounts)) == (protocol, accounts)
    assert model.is_configured == bool(accounts)
    if accounts:
        assert provider.accounts[0].slots == 3
        assert model.routes[0].price.cost.input == 0
        assert model.routes[0].price.rates.input == 1_000_000_000


def test_a_model_without_routes_is_allowed_when_it_has_a_price(tmp_path: Path) -> None:
    """`routes: []` lists the model as not configured."""
    config = load(tmp_path, "models: [{id: m, routes: [], price: {per_image: 0.02}, category: image}]")
    model = config.registry.find("m")
    assert model is not None
    assert not model.is_configured
    assert model.current_price is not None
    assert model.current_price.rates.per_image == 20_000_000


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_config_is_valid_for_every_service_without_a_key(path: Path) -> None:
    """Each example runs from an empty environment: every service accepts it, every routed model has an account."""
    text = read(path)
    config = parse(text, {})
    for section_owner in (auth_config, billing_config, edge_config, tasks_config):
        section_owner.parse(text, {})
    unrouted = [model.id for model in config.registry.models if model.routes and not model.is_configured]
    assert unrouted == []
    assert config.registry.models


@pytest.mark.parametrize(
    ("name", "model", "rates"),
    [
        ("dropstone", "dropstone-fast", ("0.351", "1.43")),
        ("dropstone", "dropstone-pro", ("0.715", "2.86")),
        ("dropstone", "dropstone-heavy", ("0.78", "3.25")),
        ("dragonfly", "deepseek/deepseek-chat", ("0.50", "1.50")),
        ("dragonfly", "doubao/doubao-1.5-pro-256k", ("0.30", "0.90")),
    ],
)
def test_the_examples_sell_at_their_documents_prices(name: str, model: str, rates: tuple[str, str]) -> None:
    """USD per million tokens as the seed documents print them, before rounding for print."""
    found = parse(read(ROOT / "examples" / f"{name}.yaml"), {}).registry.find(model)
    assert found is not None
    assert found.current_price is not None
    price = found.current_price
    scale = Decimal(price.markup_ppm) / 1_000_000 / 1_000_000_000
    assert (price.rates.input * scale, price.rates.output * scale) == tuple(map(Decimal, rates))


LOCAL = """\
providers: [{id: here, protocol: local}]
models: [{id: m, routes: [{provider: here, model: x}], price: {input: 1, output: 2}}]
"""


def test_local_models_are_called_where_their_process_is(tmp_path: Path) -> None:
    """By the setting, as an OpenAI provider without a key; an address in the file comes before it."""
    environ = {"TOLLBRIDGE_LOCAL_MODELS_URL": "http://127.0.0.1:5000/v1"}
    elsewhere = LOCAL.replace("local}", "local, base_url: 'http://gpu:1/v1/'}")
    for text, url in ((LOCAL, "http://127.0.0.1:5000/v1"), (elsewhere, "http://gpu:1/v1")):
        model = load(tmp_path, text, environ).registry.find("m")
        assert model is not None
        assert model.is_configured
        provider = model.routes[0].provider
        assert (provider.protocol, provider.base_url) == ("openai", url)
        assert [(account.id, account.api_key) for account in provider.accounts] == [("here", "")]


def test_without_their_process_local_models_are_not_configured(tmp_path: Path) -> None:
    """Whoever asks for one is told so; the file stays good."""
    model = load(tmp_path, LOCAL, {}).registry.find("m")
    assert model is not None
    assert not model.is_configured


def test_a_provider_of_jobs_makes_images_and_videos_only(tmp_path: Path) -> None:
    """No chat is answered by a job."""
    text = """
providers: [{id: jobs, protocol: predictions, base_url: "https://x.test/v1", accounts: [{id: a, api_key: k}]}]
models:
  - {id: m, category: CATEGORY, routes: [{provider: jobs, model: a/b}], price: {per_second: 0.2}}
"""
    assert load(tmp_path, text.replace("CATEGORY", "video")).registry.find("m")
    with pytest.raises(ConfigError, match="for images and videos"):
        load(tmp_path, text.replace("CATEGORY", "speech"))
