"""USDT on Tron, over the HTTP interface of TronGrid, which a node of one's own can speak too.

The list of an address' transfers says which transactions to look at; dust is told apart there, so that nobody can keep
us busy with it. What they brought is read from the transaction's own record: it succeeded, and its log has a Transfer
by the configured contract to our address. Confirmations are counted from a height that was asked for before the record,
so they are never too many.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TypeVar

import httpx
import msgspec

from chassis.errors import Code, TollbridgeError
from services.billing.config import CryptoSection
from services.billing.payments.chain import LEAST_MICRO_USDT, Listed, OnChain
from services.billing.payments.tron_address import account_of, address_of

T = TypeVar("T")
CALL_TIMEOUT_S = 5.0
TOTAL_TIMEOUT_S = 20.0
PAGE = 200
MAX_PAGES = 20
AT_ONCE = 4
WORD = 64
"""Digits of one value in a log."""
TRANSFER_TOPIC = "ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
"""What the log calls `Transfer(address,address,uint256)`."""


class _Row(msgspec.Struct, frozen=True):
    transaction_id: str
    block_timestamp: int
    value: str = "0"


class _Meta(msgspec.Struct, frozen=True):
    fingerprint: str = ""


class _Page(msgspec.Struct, frozen=True):
    data: list[_Row] = []
    meta: _Meta = _Meta()


class _RawHeader(msgspec.Struct, frozen=True):
    number: int = 0


class _Header(msgspec.Struct, frozen=True):
    raw_data: _RawHeader


class _Block(msgspec.Struct, frozen=True):
    block_header: _Header


class _Log(msgspec.Struct, frozen=True):
    address: str = ""
    topics: list[str] = []
    data: str = ""


class _Receipt(msgspec.Struct, frozen=True):
    result: str = ""


class _Info(msgspec.Struct, frozen=True, rename={"block_number": "blockNumber", "block_time_ms": "blockTimeStamp"}):
    id: str = ""
    block_number: int = 0
    block_time_ms: int = 0
    result: str = ""
    receipt: _Receipt = _Receipt()
    log: list[_Log] = []


class TronChain:
    """Tron as one HTTP interface shows it."""

    def __init__(self, section: CryptoSection) -> None:
        headers = {"TRON-PRO-API-KEY": section.api_key} if section.api_key else {}
        self._http = httpx.AsyncClient(base_url=section.api_base, headers=headers, timeout=CALL_TIMEOUT_S)
        self._contract = section.contract
        self._contract_account = account_of(section.contract).hex()

    async def listed(self, address: str, *, since_us: int) -> Sequence[Listed]:
        """See Chain."""
        rows: list[Listed] = []
        parameters: dict[str, str | int] = {
            "only_to": "true",
            "contract_address": self._contract,
            "min_timestamp": max(0, since_us // 1000),
            "order_by": "block_timestamp,asc",
            "limit": PAGE,
        }
        async with _bounded():
            for _ in range(MAX_PAGES):
                reply = await self._http.get(f"/v1/accounts/{address}/transactions/trc20", params=parameters)
                page = _decoded(reply, _Page)
                rows += [
                    Listed(
                        transaction_id=row.transaction_id,
                        arrived_at_us=row.block_timestamp * 1000,
                        is_dust=_is_dust(row.value),
                    )
                    for row in page.data
                ]
                if not page.meta.fingerprint or not page.data:
                    break
                parameters["fingerprint"] = page.meta.fingerprint
        return sorted(rows, key=lambda row: row.arrived_at_us)

    async def look_up(self, address: str, transaction_ids: Sequence[str]) -> Mapping[str, Sequence[OnChain]]:
        """See Chain."""
        if not transaction_ids:
            return {}
        to = account_of(address).hex()
        async with _bounded():
            height = _decoded(await self._http.post("/wallet/getnowblock"), _Block).block_header.raw_data.number
        found: dict[str, Sequence[OnChain]] = {}
        failed: list[TollbridgeError] = []
        left = iter(transaction_ids)

        async def ask() -> None:
            for transaction_id in left:  # all who ask take from the same
                try:
                    async with _bounded():
                        reply = await self._http.post("/wallet/gettransactioninfobyid", json={"value": transaction_id})
                        info = _decoded(reply, _Info)
                        known = info.id == transaction_id
                        found[transaction_id] = self._transfers(info, to=to, height=height) if known else ()
                except TollbridgeError as error:
                    failed.append(error)
                if failed:
                    return

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TOTAL_TIMEOUT_S), asyncio.TaskGroup() as group:  # owns the questions
                for _ in range(AT_ONCE):
                    group.create_task(ask())
        if not found:
            raise failed[0] if failed else TollbridgeError(Code.UNAVAILABLE, "Tron was too slow", retry_after_s=10)
        # as asked, not as answered: of two transfers for one payment, the first has it
        return {each: found[each] for each in transaction_ids if each in found}

    def _transfers(self, info: _Info, *, to: str, height: int) -> Sequence[OnChain]:
        if info.result == "FAILED" or info.receipt.result != "SUCCESS" or not info.block_number:
            return ()
        confirmations = max(0, height - info.block_number + 1)
        return [
            OnChain(
                position=position,
                sender=address_of(bytes.fromhex(entry.topics[1][-40:])),
                amount_micro_usdt=int(entry.data, 16),
                arrived_at_us=info.block_time_ms * 1000,
                confirmations=confirmations,
            )
            for position, entry in enumerate(info.log)
            if entry.address == self._contract_account
            and len(entry.topics) == 3
            and len(entry.data) == WORD
            and entry.topics[0] == TRANSFER_TOPIC
            and entry.topics[2][-40:] == to
        ]


def _is_dust(value: str) -> bool:
    return value.isdecimal() and len(value) < 20 and int(value) < LEAST_MICRO_USDT


@contextlib.asynccontextmanager
async def _bounded() -> AsyncIterator[None]:
    """What is within has so long; its failures are UNAVAILABLE."""
    try:
        async with asyncio.timeout(TOTAL_TIMEOUT_S):
            yield
    except (httpx.HTTPError, TimeoutError, ValueError) as error:
        message = f"Tron can't be asked: {type(error).__name__}"
        raise TollbridgeError(Code.UNAVAILABLE, message, retry_after_s=10) from error


def _decoded(reply: httpx.Response, kind: type[T]) -> T:
    if reply.status_code != httpx.codes.OK:
        raise TollbridgeError(Code.UNAVAILABLE, f"Tron answered {reply.status_code}", retry_after_s=10)
    try:
        return msgspec.json.decode(reply.content, type=kind)
    except msgspec.MsgspecError as error:
        raise TollbridgeError(Code.UNAVAILABLE, "Tron answered something else", retry_after_s=10) from error
