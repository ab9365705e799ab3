"""Every decision about money and holds. Pure: rows in, changed rows and new transfers out.

The store loads the accounts and holds that a transaction has locked into `Books`, one method decides, and the store
writes back what changed. Loaded with everything, Books is the reference model of the property tests: what they prove of
it holds for the service as far as loading and saving are right, which the same tests on PostgreSQL check.
"""

from collections.abc import Iterable, Sequence
from uuid import UUID

from msgspec.structs import replace

from chassis.errors import Code, TollbridgeError
from chassis.ids import text_of
from services.billing.holding.caps import Cap, cap_reached
from services.billing.holding.holds import Hold, HoldState
from services.billing.ledger import (
    MAX_AMOUNT,
    Account,
    House,
    Poison,
    Settled,
    Transfer,
    TransferKind,
    Usage,
    UsageKind,
    credits_account,
    insufficient,
    same_grant,
)
from services.billing.working_set import WorkingSet


class Books(WorkingSet):
    """One working set of the ledger, which its decisions change."""

    def open(self, customer_id: str, *, welcome_nano_usd: int) -> Account:
        """Opens an account with its welcome credit. An open account is returned as it is."""
        if customer_id in self.accounts:
            return self.accounts[customer_id]
        self._put_account(Account(customer_id=customer_id))
        if welcome_nano_usd:
            self._credit(
                customer_id,
                welcome_nano_usd,
                source=House.PROMOTIONS,
                kind=TransferKind.WELCOME,
                event_id=f"welcome:{customer_id}",
            )
        return self.accounts[customer_id]

    def adjust(self, customer_id: str, amount_nano_usd: int, *, event_id: str, reason: str) -> Transfer:
        """Adds credit, or takes some away; never below what is available (INSUFFICIENT_CREDITS)."""
        account = self.account(customer_id)
        if amount_nano_usd == 0 or abs(amount_nano_usd) > MAX_AMOUNT:
            raise TollbridgeError(Code.INVALID_REQUEST, "the amount is zero or out of range")
        if amount_nano_usd > 0:
            kind = TransferKind.ADJUSTMENT
            return self._credit(
                customer_id, amount_nano_usd, source=House.ADJUSTMENTS, kind=kind, event_id=event_id, reason=reason
            )
        if account.available_nano_usd < -amount_nano_usd:
            raise insufficient(account)
        # A correction makes the credit smaller; it is no use of ours, so `used` stays what requests took.
        self._put_account(
            replace(
                account,
                credited_nano_usd=account.credited_nano_usd + amount_nano_usd,
                version=account.version + 1,
            )
        )
        return self._record(
            debit=credits_account(customer_id),
            credit=House.ADJUSTMENTS,
            amount_nano_usd=-amount_nano_usd,
            kind=TransferKind.ADJUSTMENT,
            event_id=event_id,
            reason=reason,
            customer_id=customer_id,
        )

    def pay_in(self, customer_id: str, amount_nano_usd: int, *, source: House, event_id: str) -> Transfer:
        """Credits a payment that has arrived at a clearing account."""
        self.account(customer_id)
        if not 0 < amount_nano_usd <= MAX_AMOUNT:
            raise TollbridgeError(Code.INVALID_REQUEST, "the amount is zero or out of range")
        return self._credit(customer_id, amount_nano_usd, source=source, kind=TransferKind.PAYMENT, event_id=event_id)

    def reverse_payment(self, customer_id: str, amount_nano_usd: int, *, into: House, event_id: str) -> int:
        """Gives a payment's money back to where it came from: what is available, the rest from `bad_debt`.

        Returns what the customer's account paid of it.
        """
        account = self.account(customer_id)
        taken = min(amount_nano_usd, account.available_nano_usd)
        if taken:
            self._put_account(
                replace(
                    account,
                    credited_nano_usd=account.credited_nano_usd - taken,
                    version=account.version + 1,
                )
            )
        for leg, (source, amount) in enumerate(
            ((credits_account(customer_id), taken), (House.BAD_DEBT, amount_nano_usd - taken))
        ):
            if amount:
                self._record(
                    debit=source,
                    credit=into,
                    amount_nano_usd=amount,
                    kind=TransferKind.REVERSAL,
                    event_id=event_id,
                    leg=leg,
                    customer_id=None if leg else customer_id,
                )
        return taken

    def grant(self, hold: Hold, *, least_nano_usd: int = 0, caps: Sequence[Cap] = ()) -> Hold:
        """Sets money aside: the whole amount, or the most affordable from `least_nano_usd` on when that is not 0.

        The same id is the same grant. Raises INSUFFICIENT_CREDITS, SPEND_CAP_REACHED, NOT_FOUND, IDEMPOTENCY_MISMATCH.
        """
        known = self.holds.get(hold.id)
        if known is not None:
            return same_grant(known, customer_id=hold.customer_id, spender=hold.spender)
        account = self.account(hold.customer_id)
        least = least_nano_usd or hold.amount_nano_usd
        granted, room = min(hold.amount_nano_usd, account.available_nano_usd), self.caps.room(caps)
        if room is not None and room.now_nano_usd < min(granted, least):
            raise cap_reached(room)
        if granted < least:
            raise insufficient(account)
        granted = granted if room is None else min(granted, room.now_nano_usd)
        self.caps.hold(caps, granted)
        cap_ids = tuple(cap.id for cap in caps)
        hold = replace(hold, amount_nano_usd=granted, stated_nano_usd=granted, cap_ids=cap_ids)
        self._put_account(replace(account, held_nano_usd=account.held_nano_usd + granted))
        self._put_hold(hold)
        return hold

    def settle(self, usage: Usage) -> Settled:
        """Applies a charge or a void, at most once. Raises Poison for what no retry can heal."""
        key = (usage.request_id, usage.kind)
        if key in self.applied:
            return Settled(duplicate=True)
        hold = self.holds.get(usage.hold_id) if usage.hold_id else None
        if hold is not None and hold.customer_id != usage.customer_id:
            raise Poison("the hold is another customer's")
        if usage.charge_nano_usd and usage.customer_id not in self.accounts:
            raise Poison("the customer has no account")
        settled = self._charge(usage, hold) if usage.charge_nano_usd else Settled()
        if hold is not None and hold.pinned:
            self._supersede(hold.id, usage.request_id)
        if hold is not None and (usage.closes_hold or (usage.kind is UsageKind.VOID and hold.request_id == key[0])):
            self.release([hold.id])
        self.applied.add(key)
        return settled

    def release(self, hold_ids: Iterable[UUID]) -> None:
        """Settles holds and gives back what remains, but what is `kept`; others that are pinned are left alone."""
        for hold_id in hold_ids:
            hold = self.holds[hold_id]
            if hold.is_open and not hold.pinned:
                self._move_hold(hold, hold.resolve(HoldState.SETTLED))
            elif hold.is_open and hold_id in self.kept:
                self._move_hold(hold, hold.keep(self.kept[hold_id]))

    def give_back(self, hold_id: UUID, amount_nano_usd: int) -> None:
        """Frees a part of an open hold that its spender has no use for: also beside what a dead letter keeps of it."""
        hold = self.holds[hold_id]
        if hold.is_open:
            self._move_hold(hold, hold.free(amount_nano_usd))

    def expire(self, hold_id: UUID, *, now_us: int, settle_grace_s: int) -> Hold:
        """Ends a hold's time if it is over (see `Hold.expire`); returns the hold as it then is."""
        hold = self.holds[hold_id]
        kept = self.kept.get(hold_id) if hold.pinned else 0
        if hold.is_open and kept is not None and hold.expires_at_us <= now_us:
            after = hold.expire(now_us=now_us, settle_grace_s=settle_grace_s, kept_nano_usd=kept)
            self._move_hold(hold, after)
        return self.holds[hold_id]

    def pin(self, hold_id: UUID, request_id: UUID | None) -> None:
        """Keeps a hold for the dead letter of a request."""
        hold = self.holds[hold_id]
        if hold.is_open:
            self.kept_for([(hold_id, request_id)])
            self._put_hold(replace(hold, pinned=True))

    def kept_for(self, letters: Iterable[tuple[UUID, UUID | None]]) -> None:
        """Tells which open dead letters, by hold and request, keep the pinned holds that were loaded."""
        for hold_id, request_id in letters:
            self._letters.setdefault(hold_id, set()).add(request_id)

    def let_go(self, hold_id: UUID) -> None:
        """Ends the pin of a hold that no open dead letter keeps; its own time or event ends the hold."""
        hold = self.holds[hold_id]
        if hold.pinned and not self._letters.get(hold_id):
            self._put_hold(replace(hold, pinned=False))

    def refund(
        self,
        charge: Transfer,
        *,
        request_id: UUID,
        amount_nano_usd: int,
        reason: str,
    ) -> Transfer:
        """Gives back a part or all of what a charge took from its customer. Raises INVALID_REQUEST beyond that.

        `charge` is leg 0 of the request's charge. That it happens once is the caller's check and the database's
        unique constraint on (reverses, leg).
        """
        amount = amount_nano_usd or charge.amount_nano_usd
        if not 0 < amount <= charge.amount_nano_usd or charge.customer_id is None:
            raise TollbridgeError(Code.INVALID_REQUEST, "a refund is at most what the customer paid")
        if (request_id, UsageKind.REFUND) in self.applied:
            raise TollbridgeError(Code.ALREADY_REFUNDED, "the request was refunded before")
        account = self.account(charge.customer_id)
        self._put_account(replace(account, used_nano_usd=account.used_nano_usd - amount, version=account.version + 1))
        self.caps.refund(charge.cap_ids, amount)
        self.applied.add((request_id, UsageKind.REFUND))
        return self._record(
            debit=House.REVENUE,
            credit=credits_account(charge.customer_id),
            amount_nano_usd=amount,
            kind=TransferKind.REFUND,
            event_id=f"refund:{request_id}",
            reverses=charge.id,
            request_id=request_id,
            reason=reason,
            customer_id=charge.customer_id,
            cap_ids=charge.cap_ids,
        )

    def _supersede(self, hold_id: UUID, request_id: UUID) -> None:
        letters = self._letters.get(hold_id, set())
        if request_id in letters:
            letters.remove(request_id)
            self.superseded.add(request_id)
        self.let_go(hold_id)

    def _charge(self, usage: Usage, hold: Hold | None) -> Settled:
        charge = usage.charge_nano_usd
        if not 0 < charge <= MAX_AMOUNT:
            raise Poison("the charge is out of range")
        account = self.accounts[usage.customer_id]
        captured = min(charge, hold.remaining_nano_usd) if hold is not None and hold.is_open else 0
        short = charge - captured
        taken = captured + min(short, account.available_nano_usd) if short else charge
        cap_ids = hold.cap_ids if hold is not None else ()
        if cap_ids:
            self.caps.spend(cap_ids, captured_nano_usd=captured, taken_nano_usd=taken)
        if hold is not None and captured:
            self._put_hold(hold.capture(captured))
        if taken:
            self._put_account(
                replace(
                    account,
                    used_nano_usd=account.used_nano_usd + taken,
                    held_nano_usd=account.held_nano_usd - captured,
                    version=account.version + 1,
                )
            )
            self._record_charge(usage, taken, leg=0, source=credits_account(usage.customer_id), cap_ids=cap_ids)
        if charge > taken:
            self._record_charge(usage, charge - taken, leg=1, source=House.OVERAGE_LOSS)
        return Settled(taken_nano_usd=taken, overage_nano_usd=charge - taken)

    def _record_charge(
        self, usage: Usage, amount_nano_usd: int, *, leg: int, source: str, cap_ids: tuple[str, ...] = ()
    ) -> None:
        self._record(
            debit=source,
            credit=House.REVENUE,
            amount_nano_usd=amount_nano_usd,
            kind=TransferKind.CHARGE,
            event_id=f"charge:{text_of(usage.request_id)}",
            leg=leg,
            request_id=usage.request_id,
            customer_id=usage.customer_id if leg == 0 else None,
            cap_ids=cap_ids,
        )
