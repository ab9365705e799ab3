"""The unmodified SDKs for Node do what their users do every day, with models of every kind of provider.

Each of `tests/node/*_sdk.mjs` runs its checks side by side in one process and says what came of each.
"""

import base64
import json
from decimal import Decimal
from pathlib import Path

import pytest

from tests.fakes import listener
from tests.integration.node import run_node
from tests.integration.offer import price_usd
from tests.integration.running import Gateway
from tests.unit.edge.sound import wav
from upstream.sandbox.speech import MS_PER_CHARACTER

TEXT = "The quick brown fox jumps over the lazy dog."
SOUNDS = ["mp3", "opus", "flac", "wav", *(["aac"] if listener.HAS_AAC else [])]


@pytest.mark.parametrize("sdk", ["openai", "anthropic", "vercel_ai"])
def test_every_check_passes_at_the_exact_price(system: Gateway, sdk: str, tmp_path: Path) -> None:
    """What the SDK says of usage is what was charged, to the nano-dollar; what it spoke to files plays."""
    account = system.customer(credit_usd="5")
    given = {"root": system.base_url, "key": account.key, "sound": base64.b64encode(wav(1.2)).decode()}
    given |= {"directory": str(tmp_path), "text": TEXT, "sounds": SOUNDS}
    checks = run_node(f"{sdk}_sdk.mjs", json.dumps(given))
    assert {name: check["error"] for name, check in checks.items() if not check["ok"]} == {}
    paid = {name: check["value"] for name, check in checks.items() if check["value"]}
    assert len(paid) >= 6
    for sound, request_id in paid.pop("speech", {}).get("spoken", {}).items():
        played = listener.heard((tmp_path / f"speech.{sound}").read_bytes())
        assert played == (sound, pytest.approx(len(TEXT) * MS_PER_CHARACTER / 1000, abs=0.08))
        assert Decimal(account.receipt(request_id)["charge"]) == Decimal(15) * len(TEXT) / 1_000_000
    for name, value in paid.items():
        receipt = account.receipt(value["id"])
        tokens = receipt["usage"]
        prompt, cached, output = value["usage"]
        assert [tokens["prompt_tokens"], tokens["cached_tokens"], tokens["completion_tokens"]] == value["usage"], name
        expected = price_usd(receipt["model"], input=prompt - cached, cached_input=cached, output=output)
        assert Decimal(receipt["charge"]) == expected, name
        assert "cost" not in value or Decimal(str(value["cost"])) == expected, name
