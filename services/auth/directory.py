"""Customers and keys, made, changed and listed. Every mutation is one transaction and idempotent by its request id.

A claim on the request id is the first statement of the transaction, so that of two concurrent twins the second waits
for the first and then answers with what the first made. The same id with other content is refused.

A key's secret is made from a random seed (`api_keys.mint`). The seed is kept for an hour, so that a caller who lost
the answer can ask again; after that nobody can make the secret again, and asking again is a conflict.
"""

import asyncio
import dataclasses
import secrets
import time
from collections.abc import Callable
from typing import TypeVar

from chassis import db, ids
from chassis.errors import Code, TollbridgeError
from services.auth import api_keys, store
from services.auth.config import AuthConfig
from services.auth.customers import Customer, Status
from services.auth.kept_keys import KeptKeys
from services.auth.key_terms import ApiKey, KeyTerms
from services.auth.spend_caps import Lifted, SpendCap

REPLAY_US = 3600 * 1_000_000
"""How long a repeated CreateKey is answered with the secret again."""
CHANGES_KEPT_US = 3600 * 1_000_000
"""Far longer than anything that a change could make stale: kept answers live for a second."""
CLAIMS_KEPT_US = 30 * 24 * 3600 * 1_000_000
PAGE = 50
MAX_PAGE = 200

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What makes a mutation idempotent: the caller's id for it, and a digest of everything that was asked."""

    request_id: str
    fingerprint: bytes


class Directory:
    """Auth's answers to everything but Authorize."""

    def __init__(
        self,
        *,
        pool: db.Pool,
        peppers: api_keys.Peppers,
        config: Callable[[], AuthConfig],
        default_customer_id: str,
        kept: KeptKeys,
        changed: asyncio.Event,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._pool = pool
        self._peppers = peppers
        self._config = config
        self._default_customer_id = default_customer_id
        self._kept = kept
        self._changed = changed
        self._now_us = now_us

    # Customers

    async def create_customer(
        self, call: Call, *, name: str, email: str, plan: str, wished_id: str, spend_cap: SpendCap | None = None
    ) -> Customer:
        """Makes a customer; the one that there is when the request or the wished id was used before.

        A wished id is what makes the call idempotent, whatever else is asked with it: it names a customer that some
        installation counts on. Raises ValueError for a name or address that can't be.
        """
        self._check_plan(plan)
        now_us = self._now_us()
        made = Customer(
            id=wished_id or str(ids.uuid7()),
            name=name,
            email=email,
            plan=plan,
            created_at_us=now_us,
            spend_cap=spend_cap,
        )

        async def work(conn: db.Connection) -> Customer:
            if wished_id:
                await store.insert_customer(conn, made)
                return _found(await store.customer(conn, wished_id), "customer")
            claim = await _claim(conn, call, method="CreateCustomer", object_id=made.id, now_us=now_us)
            if claim.first:
                await store.insert_customer(conn, made)
            return _found(await store.customer(conn, claim.object_id), "customer")

        return await db.in_transaction(self._pool, work)

    async def customer(self, customer_id: str) -> Customer:
        """One customer; without an id the default one."""
        wanted = self._or_default(customer_id)

        async def work(conn: db.Connection) -> Customer:
            return _found(await store.customer(conn, wanted), "customer")

        return await db.in_transaction(self._pool, work)

    async def update_customer(
        self,
        call: Call,
        *,
        customer_id: str,
        plan: str | None,
        status: Status | None,
        spend_cap: SpendCap | Lifted | None = None,
    ) -> Customer:
        """Changes plan, status or spend cap, and voids kept answers.

        Repeated, it changes nothing, whatever came after it.
        """
        self._check_plan(plan or "")
        now_us = self._now_us()

        async def work(conn: db.Connection) -> Customer:
            claim = await _claim(conn, call, method="UpdateCustomer", object_id=customer_id, now_us=now_us)
            if not claim.first:
                return _found(await store.customer(conn, customer_id), "customer")
            changed = await store.change_customer(conn, customer_id, plan=plan, status=status, spend_cap=spend_cap)
            updated = _found(changed, "customer")
            await store.add_change(conn, key_id=None, customer_id=customer_id, now_us=now_us)
            return updated

        customer = await db.in_transaction(self._pool, work)
        self._kept.drop(key_id="", customer_id=customer.id)  # before the caller hears of it
        self._changed.set()
        return customer

    async def customers(self, *, after: str | None, limit: int) -> tuple[list[Customer], bool]:
        """A page, newest first, and whether more follow."""
        size = _page_size(limit)

        async def work(conn: db.Connection) -> list[Customer]:
            return await store.customers(conn, after=after, limit=size + 1)

        return _page(await db.in_transaction(self._pool, work), size)

    # Keys

    async def create_key(
        self, call: Call, *, customer_id: str, terms: KeyTerms, made_by: str = ""
    ) -> tuple[ApiKey, str]:
        """Makes a key and returns it with its secret; repeated within an hour, the same key and secret.

        `made_by` is the customer's key that asks, empty for an operator. Raises PERMISSION_DENIED when it may not.
        """
        owner, now_us = self._or_default(customer_id), self._now_us()
        new, secret = self._mint(owner, terms, made_by, now_us)

        async def work(conn: db.Connection) -> tuple[ApiKey, str]:
            if made_by:
                await _check_manager(conn, made_by, owner=owner)
            claim = await _claim(conn, call, method="CreateKey", object_id=new.key.id, now_us=now_us)
            if not claim.first:
                return await self._made_before(conn, claim.object_id, now_us)
            _found(await store.customer(conn, owner), "customer")
            await store.insert_key(conn, new)
            return new.key, secret

        return await db.in_transaction(self._pool, work)

    async def keys(self, *, customer_id: str | None, after: str | None, limit: int) -> tuple[list[ApiKey], bool]:
        """A page, newest first and revoked ones included, and whether more follow."""
        size = _page_size(limit)

        async def work(conn: db.Connection) -> list[ApiKey]:
            return await store.keys(conn, customer_id=customer_id, after=after, limit=size + 1)

        return _page(await db.in_transaction(self._pool, work), size)

    async def revoke_key(self, *, key_id: str, customer_id: str | None, by_key_id: str = "") -> ApiKey:
        """Ends a key. Ending it twice is ending it once, so no claim is needed.

        `by_key_id` is the customer's key that asks, empty for an operator. Raises PERMISSION_DENIED when it may not.
        """
        now_us = self._now_us()

        async def work(conn: db.Connection) -> ApiKey:
            if by_key_id and by_key_id != key_id:
                await _check_manager(conn, by_key_id, owner=customer_id)
            revoked = await store.revoke_key(conn, key_id, customer_id=customer_id, now_us=now_us)
            if revoked is not None:
                await store.add_change(conn, key_id=key_id, customer_id=revoked.customer_id, now_us=now_us)
                return revoked
            key = _found(await store.key(conn, key_id), "key")
            return _found(key if customer_id in (None, key.customer_id) else None, "key")

        key = await db.in_transaction(self._pool, work)
        self._kept.drop(key_id=key.id, customer_id=key.customer_id)
        self._changed.set()
        return key

    # Upkeep

    async def forget_old(self) -> None:
        """Wipes seeds, changes and claims whose time is over."""
        now_us = self._now_us()

        async def work(conn: db.Connection) -> None:
            await store.forget_old(
                conn,
                seeds_before_us=now_us - REPLAY_US,
                changes_before_us=now_us - CHANGES_KEPT_US,
                claims_before_us=now_us - CLAIMS_KEPT_US,
            )

        await db.in_transaction(self._pool, work)

    def _mint(self, owner: str, terms: KeyTerms, made_by: str, now_us: int) -> tuple[store.NewKey, str]:
        version, seed = self._peppers.newest, secrets.token_bytes(api_keys.SEED_BYTES)
        pepper = self._peppers.by_version[version]
        secret = api_keys.mint(prefix=self._config().key_prefix, seed=seed, pepper=pepper)
        key = ApiKey(
            id=str(ids.uuid7()),
            customer_id=owner,
            shown_prefix=api_keys.shown_prefix(secret),
            terms=terms,
            created_at_us=now_us,
            made_by=made_by,
        )
        digest = api_keys.digest(secret, pepper)
        return store.NewKey(key=key, digest=digest, pepper_version=version, seed=seed), secret

    async def _made_before(self, conn: db.Connection, key_id: str, now_us: int) -> tuple[ApiKey, str]:
        key = _found(await store.key(conn, key_id), "key")
        kept = await store.seed_of(conn, key_id, made_since_us=now_us - REPLAY_US)
        pepper = None if kept is None else self._peppers.by_version.get(kept[1])
        if kept is None or pepper is None:
            raise TollbridgeError(Code.CONFLICT, "This request made a key before; its secret can't be shown any more.")
        prefix = key.shown_prefix[: -api_keys.SHOWN_OF_SECRET]
        return key, api_keys.mint(prefix=prefix, seed=kept[0], pepper=pepper)

    def _or_default(self, customer_id: str) -> str:
        return customer_id or _found(self._default_customer_id or None, "default customer")

    def _check_plan(self, plan: str) -> None:
        if plan and plan not in self._config().plans:
            raise TollbridgeError(Code.INVALID_REQUEST, f"There is no plan {plan!r}.", details={"param": "plan"})


async def _claim(conn: db.Connection, call: Call, *, method: str, object_id: str, now_us: int) -> store.Claim:
    claim = await store.claim(
        conn,
        call.request_id,
        method=method,
        fingerprint=call.fingerprint,
        object_id=object_id,
        now_us=now_us,
    )
    if (claim.method, claim.fingerprint) != (method, call.fingerprint):
        raise TollbridgeError(Code.IDEMPOTENCY_MISMATCH, "This request_id was used before for something else.")
    return claim


async def _check_manager(conn: db.Connection, key_id: str, *, owner: str | None) -> None:
    """Raises unless this key may make and end keys of `owner`. Its restrictions would hold for nobody if it could."""
    key = await store.key(conn, key_id)
    if key is None or key.customer_id != owner or key.revoked_at_us:
        raise TollbridgeError(Code.INVALID_API_KEY, "The API key is not valid.")
    if key.terms.restricted:
        raise TollbridgeError(Code.PERMISSION_DENIED, "A key with restrictions can't make keys or end other keys.")


def _found(thing: T | None, what: str) -> T:
    if thing is None:
        raise TollbridgeError(Code.NOT_FOUND, f"There is no such {what}.")
    return thing


def _page_size(limit: int) -> int:
    if limit < 0 or limit > MAX_PAGE:
        raise TollbridgeError(Code.INVALID_REQUEST, f"limit is at most {MAX_PAGE}.", details={"param": "limit"})
    return limit or PAGE


def _page(rows: list[T], size: int) -> tuple[list[T], bool]:
    return rows[:size], len(rows) > size
