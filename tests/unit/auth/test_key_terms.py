"""What a key may do, judged against time and address."""

import pytest

from services.auth.customers import Customer
from services.auth.key_terms import KeyTerms
from services.auth.spend_caps import SpendCap


@pytest.mark.parametrize(
    ("networks", "address", "admitted"),
    [
        ((), "", True),
        ((), "203.0.113.9", True),
        (("203.0.113.0/24",), "203.0.113.9", True),
        (("203.0.113.0/24",), "203.0.114.9", False),
        (("203.0.113.7",), "203.0.113.7", True),
        (("2001:db8::/32",), "2001:db8::1", True),
        (("203.0.113.0/24",), "::ffff:203.0.113.9", True),
        (("203.0.113.0/24",), "", False),
        (("203.0.113.0/24",), "not an address", False),
    ],
)
def test_a_key_is_admitted_from_its_networks_only(networks: tuple[str, ...], address: str, admitted: bool):
    """An address that nobody knows is only admitted where all are."""
    assert KeyTerms(allowed_ips=networks).admits(address) is admitted


def test_a_key_ends_at_its_time():
    """Zero never ends."""
    assert KeyTerms(expires_at_us=100).is_over(100)
    assert not KeyTerms(expires_at_us=100).is_over(99)
    assert not KeyTerms().is_over(1 << 60)


@pytest.mark.parametrize(
    "fields", [{"allowed_ips": ("10.0.0.0/33",)}, {"models": ("",)}, {"name": "x" * 201}, {"expires_at_us": -1}]
)
def test_impossible_terms_are_refused(fields: dict):
    """Refused when made, so that no stored key is beyond understanding."""
    with pytest.raises(ValueError, match=r"is|holds|out of"):
        KeyTerms(**fields)


def test_a_cap_is_positive():
    """A cap of nothing is a revoked key, which there is another word for."""
    with pytest.raises(ValueError, match="spend_cap"):
        SpendCap(amount_nano_usd=0, per="day")


def test_a_nul_in_a_name_is_called_by_its_name() -> None:
    """Nobody is told that a short name is too long."""
    with pytest.raises(ValueError, match="name must not have a NUL"):
        KeyTerms(name="a\0b")
    with pytest.raises(ValueError, match="name must not have a NUL"):
        Customer(id="c", name="a\0b")
    with pytest.raises(ValueError, match="email must not have a NUL"):
        Customer(id="c", name="a", email="a\0b")
