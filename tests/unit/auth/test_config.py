"""auth reads its own sections, and of billing's the default plan only."""

from pathlib import Path

import pytest

from chassis.config import ConfigError, read
from services.auth.config import AuthConfig, parse
from services.auth.limits import WITHOUT_PLAN, Limits


def config(tmp_path: Path, text: str) -> AuthConfig:
    path = tmp_path / "tollbridge.yaml"
    path.write_text(text)
    return parse(read(path), {})


def test_an_empty_file_means_sixty_requests_a_minute(tmp_path: Path):
    """Without plans nobody is unlimited."""
    read_config = config(tmp_path, "models: []\n")
    assert read_config.key_prefix == "tb_live_"
    assert read_config.limits_of("") == WITHOUT_PLAN == Limits(requests_per_minute=60)


def test_plans_and_the_default_plan_are_read(tmp_path: Path):
    """What a plan leaves out is unlimited; a plan that is gone counts as none."""
    text = """
keys: {prefix: dsk_live_}
plans:
  - {id: free, requests_per_minute: 10, tokens_per_minute: 40000, concurrent: 5, scope: customer}
  - {id: enterprise}
billing: {default_plan: free, stripe: {secret_key: "${NOT_OURS}"}}
"""
    read_config = config(tmp_path, text)
    free = Limits(requests_per_minute=10, tokens_per_minute=40000, concurrent=5, scope="customer")
    assert read_config.key_prefix == "dsk_live_"
    assert read_config.limits_of("") == free
    assert read_config.limits_of("gone") == free
    assert read_config.limits_of("enterprise") == Limits()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("plans: [{id: a}, {id: a}]", "plans[1].id"),
        ("plans: [{id: a, requests_per_minute: -1}]", "plans[0]"),
        ("plans: [{id: a, scope: planet}]", "plans[0].scope"),
        ("plans: [{id: a, rpm: 3}]", "plans[0].rpm"),
        ("billing: {default_plan: none}", "billing.default_plan"),
        ("keys: {prefix: " + "x" * 40 + "}", "keys.prefix"),
        ("keys: {prefix: ' tb_'}", "keys.prefix"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, where: str):
    """File, line and key."""
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, text)
    assert caught.value.key == where
    assert caught.value.line == 1
