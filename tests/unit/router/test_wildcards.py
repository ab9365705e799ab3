"""Wildcard models: one entry of the config that stands for every name below it."""

from pathlib import Path

import pytest

from chassis.config import ConfigError, read
from services.router.config import parse
from services.router.registry import Registry

CONFIG = """\
providers: [{id: p, protocol: sandbox}]
models:
  - id: openai/*
    category: chat
    routes: [{provider: p, model: "*"}]
    price: {input: 1, output: 2}
  - id: openai/gpt-4/*
    category: chat
    routes: [{provider: p, model: "vendor/*:free"}]
    price: {input: 3, output: 4}
  - id: openai/known
    aliases: [openai/alias]
    category: chat
    routes: [{provider: p, model: one}]
    price: {input: 5, output: 6}
"""
ROUTE = '[{provider: p, model: "*"}]'


def registry(tmp_path: Path, text: str = CONFIG) -> Registry:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return parse(read(path), {}).registry


@pytest.mark.parametrize(
    ("name", "config_id", "provider_model"),
    [
        ("openai/known", "openai/known", "one"),
        ("openai/alias", "openai/known", "one"),
        ("openai/new", "openai/*", "new"),
        ("openai/a/b", "openai/*", "a/b"),
        ("openai/gpt-4/x", "openai/gpt-4/*", "vendor/x:free"),
        ("openai/gpt-4", "openai/*", "gpt-4"),
    ],
)
def test_an_exact_name_beats_a_wildcard_and_the_longest_wildcard_wins(
    tmp_path: Path, name: str, config_id: str, provider_model: str
) -> None:
    """The provider is asked for the rest of the name, and the price is the one that the entry says."""
    found = registry(tmp_path).find(name)
    assert found is not None
    assert (found.config_id, found.routes[0].provider_model) == (config_id, provider_model)
    assert found.id == ("openai/known" if config_id == "openai/known" else name)
    assert found.is_configured
    assert not found.is_wildcard


@pytest.mark.parametrize(
    "name", ["openai/*", "openai/", "openai", "openai/*x", "other/x", "openai/a b", f"openai/{'x' * 200}"]
)
def test_a_wildcard_itself_is_no_model_and_neither_is_what_no_provider_can_call(tmp_path: Path, name: str) -> None:
    """Names that can't be written in a config can't be asked for through a wildcard either."""
    assert registry(tmp_path).find(name) is None


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("id: openai/known", "id: openai/kn*", "models[2].id"),
        ("id: openai/known", 'id: "*"', "models[2].id"),
        ("id: openai/*\n", "id: /*\n", "models[0].id"),
        ("id: openai/*\n", "id: o*/*\n", "models[0].id"),
        ("id: openai/*\n    category: chat", "id: openai/*\n    category: image", "models[0].id"),
        ("id: openai/*\n", "id: openai/*\n    aliases: [x]\n", "models[0].aliases[0]"),
        ("[openai/alias]", "[alias/*]", "models[2].aliases[0]"),
        ("model: one", 'model: "*"', "models[2].routes[0].model"),
        (ROUTE, '[{provider: p, model: "*/*"}]', "models[0].routes[0].model"),
    ],
)
def test_a_star_that_means_nothing_is_refused(tmp_path: Path, old: str, new: str, key: str) -> None:
    """An operator is told where, rather than have a model that nobody can ask for."""
    assert old in CONFIG
    with pytest.raises(ConfigError) as caught:
        registry(tmp_path, CONFIG.replace(old, new, 1))
    assert caught.value.key == key


def test_the_prices_of_wildcards_are_kept_like_all_others(tmp_path: Path) -> None:
    """What a decision below a wildcard names can be looked up later."""
    found = registry(tmp_path)
    model = found.find("openai/new")
    assert model is not None
    assert model.routes[0].price.id in found.price_versions
