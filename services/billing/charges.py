"""Is a usage event possible, and is its charge what its price says? Pure.

Nothing here is repaired: an event that can't be right is Poison, because a repaired event is a guessed charge. What the
customer pays was computed by the spender; it is computed again from the tokens and the price version, and a difference
of one nano-dollar is Poison too.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping
from uuid import UUID

import msgspec

from chassis.ids import unix_ms
from pricing.charge import ChargeOutOfRange, charge_nano_usd
from pricing.prices import PriceVersion, Rates
from pricing.tokens import ImplausibleUsage, Tokens, Units
from services.billing.ledger import MAX_AMOUNT, DeadLetter, Poison, Settled, Usage, UsageKind, UsageRow
from tollbridge.router.v1 import router_pb2
from tollbridge.usage.v1 import usage_pb2

MAX_TEXT = 512
MAX_AHEAD_MS = 86_400_000
"""A request that began later than a day from now comes from a broken clock."""
_CUSTOMER = re.compile(r"[!-~]{1,64}")
_PRICE_VERSION = re.compile(r"[0-9a-f]{64}")
KINDS: Mapping[int, UsageKind] = {
    usage_pb2.USAGE_KIND_CHARGE: UsageKind.CHARGE,
    usage_pb2.USAGE_KIND_VOID: UsageKind.VOID,
}
ENDED: Mapping[int, str] = {
    usage_pb2.ENDED_COMPLETE: "complete",
    usage_pb2.ENDED_CLIENT_GONE: "client_gone",
    usage_pb2.ENDED_UPSTREAM_FAILED: "upstream_failed",
    usage_pb2.ENDED_GATEWAY_FAILED: "gateway_failed",
}
"""How a request ended, as people and the log are told."""
_ONE_REQUEST, _ONE_REQUEST_SENT = Units(requests=1), usage_pb2.Units(requests=1)
_VERSION_AND_VARIANT = 15 << 76 | 3 << 62
_UUID7 = 7 << 76 | 2 << 62
_KEPT_HOLD_IDS = 1_024
_RATE_CLASSES = tuple(field.name for field in dataclasses.fields(Rates))


class Checked(Usage, frozen=True, kw_only=True, gc=False):
    """An event that may be applied: what of it moves money, and the rest of what its log line says."""

    tokens: Tokens
    event: usage_pb2.UsageRecorded

    def line(self, settled: Settled) -> UsageRow:
        """The log line, with what became of the charge."""
        event = self.event
        return UsageRow(
            request_id=self.request_id,
            kind=self.kind,
            customer_id=self.customer_id,
            key_id=event.key_id,
            model=event.model,
            operation=event.operation,
            prompt_tokens=self.tokens.prompt,
            completion_tokens=self.tokens.completion,
            charge_nano_usd=self.charge_nano_usd,
            taken_nano_usd=settled.taken_nano_usd,
            overage_nano_usd=settled.overage_nano_usd,
            provider_cost_nano_usd=event.provider_cost_nano_usd,
            ended=ENDED.get(event.ended),
            recorded=event.SerializeToString(),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """When a request may have begun, in Unix milliseconds: the days that the log has partitions for."""

    earliest_ms: int
    latest_ms: int


def window(*, now_ms: int, kept_days: int) -> Window:
    """From the oldest day that is kept to a day ahead."""
    return Window(earliest_ms=now_ms - kept_days * 86_400_000, latest_ms=now_ms + MAX_AHEAD_MS)


def is_customer_id(text: str) -> bool:
    """Whether this can name a customer: printable, without blanks, at most 64 long."""
    return _CUSTOMER.fullmatch(text) is not None


def price_version(message: router_pb2.PriceVersion) -> PriceVersion:
    """A price as router sends and billing stores it. Raises ValueError when it is out of range."""
    return PriceVersion(
        rates=_rates(message.rates),
        cost=_rates(message.cost),
        markup_ppm=message.markup_ppm,
        cost_reported=message.cost_reported,
    )


def wanted_price(event: usage_pb2.UsageRecorded) -> str:
    """The price version that this event must be checked against; empty when it moves no money. Raises Poison."""
    if event.kind != usage_pb2.USAGE_KIND_CHARGE:
        return ""
    version = event.price_version
    if not _PRICE_VERSION.fullmatch(version):
        raise Poison("a charge names its price version by 64 hexadecimal digits")
    return version


def check(event: usage_pb2.UsageRecorded, price: PriceVersion | None, *, within: Window) -> Checked:
    """Checks everything about an event. `price` is that of `wanted_price`, None when none is wanted. Raises Poison."""
    kind = KINDS.get(event.kind)
    if kind is None:
        raise Poison("it is neither a charge nor a void")
    _check_texts(event)
    tokens, units = _counts(event)
    _check_charge(event, tokens, units, price)
    return _checked(event, kind, tokens, within)


def corrected(event: usage_pb2.UsageRecorded, *, kind: UsageKind, charge_nano_usd: int, within: Window) -> Checked:
    """The event as an operator corrects it: their charge instead of its own, and no count that can't be. Raises Poison.

    Nothing is computed: that it could not be computed is why it was set aside.
    """
    is_charge = kind is UsageKind.CHARGE
    copy = usage_pb2.UsageRecorded()
    copy.CopyFrom(event)
    copy.kind = usage_pb2.USAGE_KIND_CHARGE if is_charge else usage_pb2.USAGE_KIND_VOID
    copy.charge_nano_usd = charge_nano_usd
    copy.provider_cost_nano_usd = min(max(event.provider_cost_nano_usd, 0), MAX_AMOUNT)
    for name in ("key_id", "model", "operation"):
        setattr(copy, name, getattr(event, name).replace("\x00", "")[:MAX_TEXT])
    try:
        tokens, _ = _counts(copy)
    except Poison:
        tokens = Tokens()
        copy.ClearField("tokens")
        copy.ClearField("units")
    _check_texts(copy)
    return _checked(copy, kind, tokens, within)


def _checked(event: usage_pb2.UsageRecorded, kind: UsageKind, tokens: Tokens, within: Window) -> Checked:
    if not 0 <= event.provider_cost_nano_usd <= MAX_AMOUNT:
        raise Poison("the provider's cost is out of range")
    return Checked(
        request_id=_request_id(event.request_id, within),
        kind=kind,
        customer_id=event.customer_id,
        hold_id=_hold_id(event.hold_id) if event.hold_id else None,
        closes_hold=event.closes_hold,
        charge_nano_usd=event.charge_nano_usd,
        tokens=tokens,
        event=event,
    )


def dead_letter(event: usage_pb2.UsageRecorded, reason: str) -> DeadLetter:
    """The event, set aside, with as much as can be read of it."""
    return DeadLetter(
        request_id=_uuid_or_none(event.request_id),
        kind=KINDS.get(event.kind, ""),
        customer_id=event.customer_id if is_customer_id(event.customer_id) else "",
        hold_id=_uuid_or_none(event.hold_id),
        reason=reason,
        recorded=event.SerializeToString(),
    )


def _check_texts(event: usage_pb2.UsageRecorded) -> None:
    if not is_customer_id(event.customer_id):
        raise Poison("customer_id is missing or malformed")
    for text in (event.key_id, event.model, event.operation):
        if len(text) > MAX_TEXT or "\x00" in text:
            raise Poison("a text is too long or has a NUL in it")


def _counts(event: usage_pb2.UsageRecorded) -> tuple[Tokens, Units]:
    sent, pieces = event.tokens, event.units
    try:
        tokens = Tokens(
            input=sent.input,
            cached_input=sent.cached_input,
            cache_write=sent.cache_write,
            cache_write_1h=sent.cache_write_1h,
            output=sent.output,
            reasoning=sent.reasoning,
            audio_input=sent.audio_input,
            audio_output=sent.audio_output,
            image_input=sent.image_input,
        )
        return tokens, _ONE_REQUEST if pieces == _ONE_REQUEST_SENT else _units(pieces)
    except ImplausibleUsage as error:
        raise Poison(f"impossible counts: {error}") from error


def _units(sent: usage_pb2.Units) -> Units:
    return Units(requests=sent.requests, images=sent.images, characters=sent.characters, milliseconds=sent.milliseconds)


def _check_charge(event: usage_pb2.UsageRecorded, tokens: Tokens, units: Units, price: PriceVersion | None) -> None:
    if event.kind == usage_pb2.USAGE_KIND_VOID:
        if event.charge_nano_usd:
            raise Poison("a void charges nothing")
        return
    if price is None:
        raise Poison("a charge has no price")
    reported = event.provider_reported_cost_nano_usd
    try:
        computed = charge_nano_usd(tokens, units, price, reported_cost_nano_usd=None if reported == -1 else reported)
    except ChargeOutOfRange as error:
        raise Poison(str(error)) from error
    if computed != event.charge_nano_usd:
        raise Poison(f"the charge is {event.charge_nano_usd}, its price makes {computed}")


def _rates(message: router_pb2.Rates) -> Rates:
    return Rates(**{name: getattr(message, name) for name in _RATE_CLASSES})


def _request_id(text: str, within: Window) -> UUID:
    """Its time chooses the partition: one that is far off would land where nothing is made or kept."""
    request_id = _uuid(text, "request_id")
    number = request_id.int
    if number & _VERSION_AND_VARIANT != _UUID7:
        raise Poison("request_id is no UUIDv7")
    if not within.earliest_ms <= unix_ms(request_id) <= within.latest_ms:
        raise Poison("request_id is of a time that the log does not keep")
    return request_id


@functools.lru_cache(maxsize=_KEPT_HOLD_IDS)
def _hold_id(text: str) -> UUID:
    """Remembered, because hundreds of events name one lease; what is no id is not."""
    return _uuid(text, "hold_id")


def _uuid(text: str, name: str) -> UUID:
    try:
        return msgspec.convert(text, UUID)
    except msgspec.ValidationError as error:
        raise Poison(f"{name} is no UUID") from error


def _uuid_or_none(text: str) -> UUID | None:
    try:
        return msgspec.convert(text, UUID)
    except msgspec.ValidationError:
        return None
