"""Signed links: how long they are good, and for what."""

import pytest

from services.tasks.files import links

SECRET, FILE = b"s" * 32, "96d912c4-6173-5153-a542-76013d40a0cf"


@pytest.mark.parametrize("now_s", [1_795_000_000.0, 1_795_000_499.9, 1_795_000_500.0, 1_795_000_899.5])
def test_a_link_is_good_for_45_to_60_minutes(now_s: float):
    """Its end is on a quarter hour, never past an hour."""
    expires_s, proof = links.sign(SECRET, FILE, now_s=now_s)
    assert 2700 <= expires_s - int(now_s) <= 3600
    assert links.is_good([b"newer", SECRET], FILE, expires_s=expires_s, signature=proof, now_s=expires_s - 0.1)
    assert not links.is_good([SECRET], FILE, expires_s=expires_s, signature=proof, now_s=expires_s)


def test_a_link_asked_for_again_is_the_same_link():
    """Within a quarter hour a repeated answer is the same, byte for byte."""
    start_s = 1_795_000_500
    assert links.sign(SECRET, FILE, now_s=start_s) == links.sign(SECRET, FILE, now_s=start_s + 899.9)


def test_a_link_reads_nothing_else_and_no_longer():
    """Another file, another end or another secret needs another proof."""
    now_s = 1_795_000_500.0
    expires_s, proof = links.sign(SECRET, FILE, now_s=now_s)
    assert not links.is_good([SECRET], FILE.replace("9", "8"), expires_s=expires_s, signature=proof, now_s=now_s)
    assert not links.is_good([SECRET], FILE, expires_s=expires_s + 1, signature=proof, now_s=now_s)
    assert not links.is_good([b"other"], FILE, expires_s=expires_s, signature=proof, now_s=now_s)
    far_s = int(now_s) + 7200
    assert not links.is_good([SECRET], FILE, expires_s=far_s, signature=links._proof(SECRET, FILE, far_s), now_s=now_s)
