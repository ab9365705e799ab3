"""The unmodified SDKs for Node do what their users do every day, with models of every kind of provider.

Each of `tests/node/*_sdk.mjs` runs its checks side by side in one process and says what came of each.
"""

import base64
import json
from decimal import Decimal

import pytest

from tests.integration.node import run_node
from tests.integration.offer import price_usd
from tests.integration.running import Gateway
from tests.unit.edge.sound import wav


@pytest.mark.parametrize("sdk", ["openai", "anthropic", "vercel_ai"])
def test_every_check_passes_at_the_exact_price(system: Gateway, sdk: str) -> None:
    """What the SDK says of usage is what was charged, to the nano-dollar."""
    account = system.customer(credit_usd="5")
    given = {"root": system.base_url, "key": account.key, "sound": base64.b64encode(wav(1.2)).decode()}
    checks = run_node(f"{sdk}_sdk.mjs", json.dumps(given))
    assert {name: check["error"] for name, check in checks.items() if not check["ok"]} == {}
    paid = {name: check["value"] for name, check in checks.items() if check["value"]}
    assert len(paid) >= 6
    for name, value in paid.items():
        receipt = account.receipt(value["id"])
        tokens = receipt["usage"]
        prompt, cached, output = value["usage"]
        assert [tokens["prompt_tokens"], tokens["cached_tokens"], tokens["completion_tokens"]] == value["usage"], name
        expected = price_usd(receipt["model"], input=prompt - cached, cached_input=cached, output=output)
        assert Decimal(receipt["charge"]) == expected, name
        assert "cost" not in value or Decimal(str(value["cost"])) == expected, name
