"""What is kept of keys is believed for under a second since the database last agreed with it."""

from services.auth.customers import Customer
from services.auth.kept_keys import LIFE_S, TRUSTED_S, Holder, Kept, KeptKeys
from services.auth.key_terms import ApiKey, KeyTerms


def holder(key_id: str = "k", customer_id: str = "c") -> Holder:
    key = ApiKey(id=key_id, customer_id=customer_id, shown_prefix="tb_", terms=KeyTerms(), created_at_us=1)
    return Holder(key, Customer(id=customer_id, name="n"))


def test_an_entry_is_believed_for_less_than_a_second_without_polls():
    """A process that is cut off from the database lets nobody in for longer."""
    kept = KeptKeys()
    kept.put(b"d", Kept(holder(), 10.0), generation=0)
    assert kept.get(b"d", now_s=10.0 + TRUSTED_S - 0.01) is not None
    assert kept.get(b"d", now_s=10.0 + TRUSTED_S + 0.01) is None


def test_a_poll_makes_an_entry_as_true_as_the_poll_but_not_older_than_its_life():
    """What the database confirmed may be kept longer by callers; it is read again all the same."""
    kept = KeptKeys()
    kept.put(b"d", Kept(holder(), 10.0), generation=0)
    kept.confirm(polled_at_s=10.5)
    entry = kept.get(b"d", now_s=10.96)
    assert entry is not None
    assert entry.true_at_s == 10.5
    assert kept.get(b"d", now_s=10.0 + LIFE_S) is None


def test_what_was_read_before_a_change_is_not_kept():
    """A slow look-up can't bring back what a change has just dropped."""
    kept = KeptKeys()
    generation = kept.generation
    kept.drop(key_id="other", customer_id="c")
    kept.put(b"d", Kept(holder(), 10.0), generation=generation)
    assert kept.get(b"d", now_s=10.0) is None


def test_a_change_drops_its_key_only_and_a_customers_change_all_of_theirs():
    """Others stay."""
    kept = KeptKeys()
    for number, key in enumerate([holder("k1", "c1"), holder("k2", "c1"), holder("k3", "c2")]):
        kept.put(bytes([number]), Kept(key, 10.0), generation=0)
    kept.drop(key_id="k1", customer_id="c1")
    assert [kept.get(bytes([n]), now_s=10.0) is not None for n in range(3)] == [False, True, True]
    kept.drop(key_id="", customer_id="c1")
    assert [kept.get(bytes([n]), now_s=10.0) is not None for n in range(3)] == [False, False, True]


def test_it_never_holds_more_than_its_capacity():
    """The oldest go first."""
    kept = KeptKeys(capacity=10)
    for number in range(50):
        kept.put(bytes([number]), Kept(holder(), 10.0), generation=0)
    assert len(kept) == 10
    assert kept.get(bytes([49]), now_s=10.0) is not None
