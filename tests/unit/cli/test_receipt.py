"""`tollbridge receipt verify` from a terminal, without a gateway anywhere."""

import json

import pytest

from services.billing.receipts.signatures import PublicKey
from tests.unit.billing.papers import KEY, OTHER_KEY, document
from tests.unit.cli.test_commands import tollbridge


def _jwk(key: PublicKey) -> dict[str, str]:
    import base64

    x = base64.urlsafe_b64encode(key.raw).rstrip(b"=").decode()
    return {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": key.id}


@pytest.fixture
def keys(tmp_path):
    found = tmp_path / "keys.json"
    found.write_text(json.dumps({"keys": [_jwk(OTHER_KEY.public), _jwk(KEY.public)]}))
    return found


def test_a_good_receipt_exits_0_however_its_json_is_laid_out(tmp_path, keys):
    """The signature is over the canonical form, not over somebody's indentation."""
    receipt = tmp_path / "receipt.json"
    receipt.write_text(json.dumps(KEY.signed(document(refunded=5)), indent=4, sort_keys=True))
    done = tollbridge("receipt", "verify", str(receipt), "--keys", str(keys))
    assert (done.returncode, done.stderr) == (0, "")
    assert "good" in done.stdout


def test_a_changed_receipt_exits_1_and_says_what_is_wrong(tmp_path, keys):
    """A customer who halves their charge is found out."""
    changed = KEY.signed(document()) | {"charge": "0.000000001"}
    receipt = tmp_path / "receipt.json"
    receipt.write_text(json.dumps(changed))
    done = tollbridge("receipt", "verify", str(receipt), "--keys", str(keys))
    assert done.returncode == 1
    assert "something was changed" in done.stderr
    assert "not the charge" in done.stderr


def test_without_keys_or_without_the_file_it_exits_2(tmp_path, keys):
    """Not checked is neither good nor bad."""
    receipt = tmp_path / "receipt.json"
    receipt.write_text(json.dumps(KEY.signed(document())))
    for arguments in (
        (str(receipt), "--data-dir", str(tmp_path)),
        (str(receipt), "--keys", str(tmp_path / "none.json")),
        (str(tmp_path / "none.json"), "--keys", str(keys)),
        (str(receipt), "--keys", str(receipt)),
    ):
        done = tollbridge("receipt", "verify", *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert "not checked" in done.stderr
