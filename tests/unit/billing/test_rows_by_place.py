"""Rows that are taken apart by their places: what stands where is money."""

import re
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from services.billing import store
from services.billing.ledger import Transfer, TransferKind, UsageRow
from services.billing.proof.seals import canonical, canonical_transfer

TEXTS = st.text(max_size=20)
NUMBERS = st.integers(0, 2**53)
TRANSFERS = st.builds(
    Transfer,
    id=st.uuids(),
    debit=TEXTS,
    credit=TEXTS,
    amount_nano_usd=NUMBERS,
    kind=st.sampled_from(TransferKind),
    event_id=TEXTS,
    leg=st.integers(0, 1),
    reverses=st.none() | st.uuids(),
    request_id=st.none() | st.uuids(),
    reason=TEXTS,
    customer_id=st.none() | TEXTS,
    version=st.none() | NUMBERS,
    balance_after_nano_usd=st.none() | NUMBERS,
    cap_ids=st.lists(TEXTS, max_size=3).map(tuple),
)


def _names(columns: str) -> list[str]:
    return [name.strip() for name in columns.split(",")]


def test_fields_are_in_the_order_of_their_columns():
    """Two of one type that changed places would be written, and sealed, as each other."""
    unitless = lambda row: [name.removesuffix("_nano_usd") for name in row.__struct_fields__]  # noqa: E731
    assert unitless(Transfer) == _names(store.TRANSFER_COLUMNS)
    written = re.search(r"usage_events \((.*?)\)", store._ADD_USAGE, re.DOTALL)
    assert written is not None
    assert unitless(UsageRow) == _names(written[1])


@given(transfer=TRANSFERS, created_at_us=NUMBERS)
def test_a_transfer_is_sealed_as_its_row_would_be(transfer: Transfer, created_at_us: int):
    """Seals of any time are checked against rows: whatever is in one, its text is the same."""

    def text(value: UUID | int | None) -> str | None:
        return None if value is None else str(value)

    row = {
        "id": str(transfer.id),
        "amount": str(transfer.amount_nano_usd),
        "balance_after": text(transfer.balance_after_nano_usd),
        "cap_ids": " ".join(transfer.cap_ids) or None,
        "created_at_us": str(created_at_us),
        "credit": transfer.credit,
        "customer_id": transfer.customer_id,
        "debit": transfer.debit,
        "event_id": transfer.event_id,
        "kind": transfer.kind.value,
        "leg": str(transfer.leg),
        "reason": transfer.reason,
        "request_id": text(transfer.request_id),
        "reverses": text(transfer.reverses),
        "version": text(transfer.version),
    }
    assert canonical_transfer(transfer, created_at_us=created_at_us) == canonical(row)
