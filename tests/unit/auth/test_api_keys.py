"""Keys as text: what is minted is accepted, and what is not is refused without a look-up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.auth import api_keys

PEPPER = bytes(range(32))
seeds = st.binary(min_size=32, max_size=32)
prefixes = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=32)


@given(seeds, prefixes)
def test_a_minted_key_is_well_formed_with_any_prefix(seed: bytes, prefix: str):
    """Prefix, 37 characters and 6 of checksum, whatever the prefix is."""
    key = api_keys.mint(prefix=prefix, seed=seed, pepper=PEPPER)
    assert key.startswith(prefix)
    assert len(key) == len(prefix) + 43
    assert api_keys.is_well_formed(key)


@given(seeds, st.integers(0, 50), st.sampled_from(api_keys.ALPHABET))
def test_one_wrong_character_is_noticed(seed: bytes, at: int, letter: str):
    """CRC32 finds every single wrong character, in the prefix too."""
    key = api_keys.mint(prefix="tb_live_", seed=seed, pepper=PEPPER)
    wrong = key[:at] + letter + key[at + 1 :]
    assert api_keys.is_well_formed(wrong) is (wrong == key)


@given(st.text(max_size=120))
def test_junk_is_refused(text: str):
    """Nothing that anybody types by chance passes."""
    assert not api_keys.is_well_formed(text)


@given(seeds, seeds)
def test_a_seed_makes_one_key_and_other_seeds_other_keys(one: bytes, other: bytes):
    """A repeated request gets the same secret, another request another one."""
    first = api_keys.mint(prefix="", seed=one, pepper=PEPPER)
    assert first == api_keys.mint(prefix="", seed=one, pepper=PEPPER)
    assert (first == api_keys.mint(prefix="", seed=other, pepper=PEPPER)) is (one == other)


def test_a_key_can_not_be_made_from_its_seed_without_the_pepper():
    """The database alone gives no key away."""
    seed = bytes(32)
    assert api_keys.mint(prefix="", seed=seed, pepper=PEPPER) != api_keys.mint(prefix="", seed=seed, pepper=bytes(32))


def test_the_digest_depends_on_the_pepper():
    """Digests of two installations are not comparable."""
    assert api_keys.digest("k", PEPPER) != api_keys.digest("k", bytes(32))
    assert len(api_keys.digest("k", PEPPER)) == 32


def test_what_is_shown_of_a_key_is_its_prefix_and_four_characters():
    """Enough to recognise, too little to use."""
    key = api_keys.mint(prefix="tb_live_", seed=bytes(32), pepper=PEPPER)
    assert api_keys.shown_prefix(key) == key[:12]


def test_peppers_are_read_newest_last():
    """Rotation appends a pepper; every version can still be looked up."""
    peppers = api_keys.Peppers.parse("1:" + "ab" * 16 + ",3:" + "cd" * 16)
    assert peppers.newest == 3
    assert len(peppers.digests("k")) == 2


@pytest.mark.parametrize("text", ["", "1", "1:zz", "1:ab", "0:" + "ab" * 16, "x:" + "ab" * 16, "1:{p},1:{p}"])
def test_wrong_peppers_are_refused_and_never_quoted(text: str):
    """The message may land in a log."""
    written = text.format(p="ab" * 16)
    with pytest.raises(ValueError, match="pepper") as caught:
        api_keys.Peppers.parse(written)
    assert "abab" not in str(caught.value)


def test_peppers_do_not_show_in_their_repr():
    """A log line with the object in it holds no secret."""
    assert "by_version" not in repr(api_keys.Peppers.parse("1:" + "ab" * 16))
