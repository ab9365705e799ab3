"""The rows that a transaction has locked, and what has changed in them; the decisions of `books` are made of its steps.

A step keeps rows and sums together: a transfer carries its customer's version and balance; what a hold frees, its
account and its caps free too. The store loads a working set and writes back what it says has changed.
"""

from collections.abc import Callable, Iterable
from uuid import UUID

from msgspec.structs import replace

from chassis.errors import Code, TollbridgeError
from services.billing.holding.caps import CapAccount, CapRows
from services.billing.holding.holds import Hold
from services.billing.ledger import (
    MAX_BALANCE,
    Account,
    House,
    Transfer,
    TransferKind,
    UsageKind,
    credits_account,
)


class WorkingSet:
    """Accounts, cap accounts and holds. Not shared between tasks.

    `applied` names the usage events that are known to be in the ledger already; `superseded` gathers the requests whose
    dead letter keeps its hold no longer, because a later event of theirs was applied. `kept` says of pinned leases for
    many requests what their letters keep, where all else of them may be freed. `now_us` is when the transaction began,
    which its transfers say of themselves, in microseconds since the epoch; 0 where no account was locked.
    """

    def __init__(
        self,
        *,
        new_id: Callable[[], UUID],
        accounts: Iterable[Account] = (),
        holds: Iterable[Hold] = (),
        caps: Iterable[CapAccount] = (),
        applied: Iterable[tuple[UUID, UsageKind]] = (),
        now_us: int = 0,
    ) -> None:
        self._new_id = new_id
        self.accounts = {account.customer_id: account for account in accounts}
        self.holds = {hold.id: hold for hold in holds}
        self.caps = CapRows(caps)
        self.applied = set(applied)
        self.now_us = now_us
        self._loaded_accounts, self._loaded_holds = dict(self.accounts), dict(self.holds)
        self.transfers: list[Transfer] = []
        self.superseded: set[UUID] = set()
        self.kept: dict[UUID, int] = {}
        self._letters: dict[UUID, set[UUID | None]] = {}

    @property
    def changed_accounts(self) -> set[str]:
        """Those that are not as they were loaded."""
        return {id_ for id_, account in self.accounts.items() if account is not self._loaded_accounts.get(id_)}

    @property
    def changed_holds(self) -> set[UUID]:
        """Those that are not as they were loaded."""
        return {id_ for id_, hold in self.holds.items() if hold is not self._loaded_holds.get(id_)}

    def account(self, customer_id: str) -> Account:
        """Raises NOT_FOUND."""
        account = self.accounts.get(customer_id)
        if account is None:
            raise TollbridgeError(Code.NOT_FOUND, "no such customer account")
        return account

    def _credit(
        self,
        customer_id: str,
        amount_nano_usd: int,
        *,
        source: House,
        kind: TransferKind,
        event_id: str,
        reason: str = "",
    ) -> Transfer:
        account = self.accounts[customer_id]
        if account.posted_nano_usd + amount_nano_usd > MAX_BALANCE:
            raise TollbridgeError(Code.INVALID_REQUEST, "the balance would be out of range")
        self._put_account(
            replace(
                account,
                credited_nano_usd=account.credited_nano_usd + amount_nano_usd,
                version=account.version + 1,
            )
        )
        return self._record(
            debit=source,
            credit=credits_account(customer_id),
            amount_nano_usd=amount_nano_usd,
            kind=kind,
            event_id=event_id,
            reason=reason,
            customer_id=customer_id,
        )

    def _record(
        self,
        *,
        debit: str,
        credit: str,
        amount_nano_usd: int,
        kind: TransferKind,
        event_id: str,
        customer_id: str | None,
        leg: int = 0,
        reverses: UUID | None = None,
        request_id: UUID | None = None,
        reason: str = "",
        cap_ids: tuple[str, ...] = (),
    ) -> Transfer:
        account = self.accounts[customer_id] if customer_id is not None else None
        transfer = Transfer(
            id=self._new_id(),
            debit=debit,
            credit=credit,
            amount_nano_usd=amount_nano_usd,
            kind=kind,
            event_id=event_id,
            leg=leg,
            reverses=reverses,
            request_id=request_id,
            reason=reason,
            customer_id=customer_id,
            version=account.version if account else None,
            balance_after_nano_usd=account.posted_nano_usd if account else None,
            cap_ids=cap_ids,
        )
        self.transfers.append(transfer)
        return transfer

    def _move_hold(self, before: Hold, after: Hold) -> None:
        freed = before.remaining_nano_usd - after.remaining_nano_usd
        account = self.accounts[before.customer_id]
        if freed:
            self._put_account(replace(account, held_nano_usd=account.held_nano_usd - freed))
            self.caps.free(before.cap_ids, freed)
        self._put_hold(after)

    def _put_account(self, account: Account) -> None:
        self.accounts[account.customer_id] = account

    def _put_hold(self, hold: Hold) -> None:
        self.holds[hold.id] = hold
