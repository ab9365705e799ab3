"""Secrets at rest: read back under their own key and owner only, whatever the database says."""

import pytest

from chassis.telemetry import hider
from services.billing.alerts.at_rest import AtRestKeys, Unreadable
from services.billing.settings import Settings

OLD, NEW = "1:" + "ab" * 32, "2:" + "cd" * 32
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_a_secret_comes_back_and_does_not_show() -> None:
    """Neither as it is nor twice in the same way."""
    keys = AtRestKeys.parse(OLD)
    one, two = (keys.encrypted(SECRET, owner="c") for _ in range(2))
    assert one != two
    assert "whsec" not in one
    assert {keys.decrypted(each, owner="c") for each in (one, two)} == {SECRET}


def test_keys_rotate() -> None:
    """The newest encrypts; what was written under the old one is read while that is there, and no longer."""
    before, during, after = (AtRestKeys.parse(text) for text in (OLD, f"{OLD},{NEW}", NEW))
    stored = before.encrypted(SECRET, owner="c")
    assert during.decrypted(stored, owner="c") == SECRET
    assert not stored.startswith(during.prefix)
    renewed = during.encrypted(SECRET, owner="c")
    assert renewed.startswith(during.prefix)
    assert after.decrypted(renewed, owner="c") == SECRET
    with pytest.raises(Unreadable, match="TOLLBRIDGE_AT_REST_KEYS"):
        after.decrypted(stored, owner="c")


def test_a_secret_in_the_place_of_anothers_is_unreadable() -> None:
    """Nor is one of which a byte was altered; the error quotes nothing of it."""
    keys = AtRestKeys.parse(OLD)
    stored = keys.encrypted(SECRET, owner="c")
    altered = stored[:-6] + ("A" if stored[-6] != "A" else "B") + stored[-5:]
    for text, owner in ((stored, "d"), (altered, "c"), ("1:", "c"), ("1:?", "c"), ("x:" + stored[2:], "c")):
        with pytest.raises(Unreadable) as caught:
            keys.decrypted(text, owner=owner)
        assert stored[2:10] not in str(caught.value)


def test_without_keys_secrets_are_as_they_were() -> None:
    """And a key that comes later reads those, too."""
    none = AtRestKeys.parse("")
    assert none.encrypted(SECRET, owner="c") == SECRET
    assert (none.prefix, none.decrypted(SECRET, owner="c")) == ("", SECRET)
    assert AtRestKeys.parse(OLD).decrypted(SECRET, owner="c") == SECRET


@pytest.mark.parametrize(
    "text",
    ["ab" * 32, "1:" + "ab" * 31, "1:" + "ab" * 33, "0:" + "ab" * 32, "1:" + "zz" * 32, f"{OLD},{OLD}"],
    ids=["no version", "short", "long", "version 0", "no hex", "twice"],
)
def test_wrong_keys_are_refused_and_never_quoted(text: str) -> None:
    """The start ends with what is wrong."""
    with pytest.raises(ValueError, match="key") as caught:
        AtRestKeys.parse(text)
    assert "abab" not in str(caught.value)


def test_the_keys_are_not_shown() -> None:
    """Neither by the settings' repr nor in a log line that quotes the environment."""
    assert "abab" not in repr(Settings(at_rest_keys=OLD))
    cleaned = hider({"TOLLBRIDGE_AT_REST_KEYS": OLD})(None, "info", {"event": f"told {OLD}"})
    assert "abab" not in str(cleaned)
