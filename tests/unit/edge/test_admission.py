"""What a request is allowed never costs more than what was drawn for it."""

import asyncio
import dataclasses
import threading
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.errors import Code, TollbridgeError
from chassis.telemetry import Tracer
from pricing.charge import charge_nano_usd, worst_case_nano_usd
from pricing.prices import PriceVersion, Rates
from pricing.tokens import Tokens, Units
from services.edge.bodies.chat_request import parse_chat
from services.edge.owners import Authority, AuthOwner, Granted
from services.edge.paid.admission import Admission, api_key_of
from services.edge.paid.paid_request import PaidRequest
from services.edge.paid.prompt import cautiously, count_prompt
from services.edge.spending.purse import Purse
from services.edge.spending.spend_caps import SpendCap
from tests.fakes.routes import route_to
from tollbridge.auth.v1 import auth_pb2
from upstream.route import Bounds, Route, WireProtocol

WHO = Authority(customer_id="c", key_id="k", plan="", models=frozenset(), keep_s=0)


class Lender:
    """Lends from a balance as billing does."""

    def __init__(self, available: int) -> None:
        self.available = available
        self.granted: dict[str, int] = {}

    async def grant_lease(self, *, hold_id, amount_nano_usd, least_nano_usd, **_) -> Granted:
        if amount_nano_usd > self.available and least_nano_usd:
            amount_nano_usd = self.available
        if amount_nano_usd > self.available or amount_nano_usd < least_nano_usd:
            raise TollbridgeError(Code.INSUFFICIENT_CREDITS, "no", details={"affordable_nano_usd": str(self.available)})
        self.available -= amount_nano_usd
        self.granted[hold_id] = amount_nano_usd
        return Granted(hold_id=hold_id, amount_nano_usd=amount_nano_usd, ttl_s=30)

    async def return_lease(self, *, hold_id) -> None:
        self.available += self.granted.pop(hold_id)

    async def state_leases(self, leases, *, as_of, only_these=False) -> tuple[float, list[str]]:
        return 10.0, []


def route(price: PriceVersion, bounds: Bounds) -> Route:
    return route_to(protocol=WireProtocol.SANDBOX, provider_model="m", price=price, bounds=bounds)


def counted(request: PaidRequest, to: Route) -> int:
    """What the input is taken for where credit is short."""
    return min(request.input_tokens(to.bounds), request.most_prompt_tokens(to.provider_model))


def admission(available: int, *, clamps: bool = True) -> Admission:
    return admission_of(Lender(available), clamps=clamps)


def admission_of(lender: Lender, *, clamps: bool = True) -> Admission:
    auth = AuthOwner(pipe=None)  # type: ignore[arg-type]  # fund asks nobody
    purse = Purse(billing=lender, spender=uuid4())
    tracer = Tracer(service="edge", replica="0", otlp_endpoint="")
    return Admission(auth=auth, purse=purse, tracer=tracer, clamps_short_credit=lambda: clamps)


@settings(max_examples=100, deadline=None)
@given(
    rates=st.tuples(*[st.integers(0, 10**13)] * 2),
    per_request=st.integers(0, 10**9),
    markup=st.integers(1, 5_000_000),
    available=st.integers(0, 10**12),
    asked=st.none() | st.integers(1, 10_000),
    choices=st.integers(1, 8),
    bounds=st.tuples(st.integers(0, 8000), st.integers(0, 500)),
)
def test_whatever_is_allowed_fits_its_draw(*, rates, per_request, markup, available, asked, choices, bounds):
    """With every class at its dearest and every bound used up, the charge is at most what is held.

    The input's bound is its bytes, and where credit is short its count.
    """
    price_rates = Rates(input=rates[0], output=rates[1], per_request=per_request)
    price = PriceVersion(rates=price_rates, cost=Rates(), markup_ppm=markup)
    limit = "" if asked is None else f', "max_tokens": {asked}'
    body = f'{{"model": "fast", "n": {choices}, "messages": [{{"role": "user", "content": "Hi"}}]{limit}}}'.encode()
    request = parse_chat(body)
    to = route(price, Bounds(max_output=bounds[0], hidden_output=bounds[1]))

    async def fund():
        return await admission(available).fund(request=request, request_id=uuid4(), authority=WHO, route=to)

    try:
        allowed = asyncio.run(fund())
    except TollbridgeError:
        return  # refused: nothing is allowed
    assert allowed.draw.amount_nano_usd <= available
    assert allowed.max_tokens >= 1
    if asked is not None:
        assert allowed.max_tokens <= asked
    most = request.input_tokens(to.bounds)
    assert allowed.limits.max_input == most
    short = available < worst_case_nano_usd(price, input_tokens=most, output_tokens=allowed.limits.max_output)
    used = Tokens(input=counted(request, to) if short else most, output=allowed.limits.max_output)
    assert allowed.limits.max_output == choices * allowed.max_tokens + bounds[1]
    assert charge_nano_usd(used, Units(requests=1), price) <= allowed.draw.amount_nano_usd


async def test_a_balance_that_pays_input_and_sixteen_tokens_runs():
    """The least that is worth running is let in, one nano-dollar less is not."""
    price = PriceVersion(rates=Rates(input=10**9, output=4 * 10**9), cost=Rates())
    request = parse_chat(b'{"model": "fast", "messages": [{"role": "user", "content": "Hi"}]}')
    to = route(price, Bounds(max_output=1000))
    least = worst_case_nano_usd(price, input_tokens=counted(request, to), output_tokens=16)
    allowed = await admission(least).fund(request=request, request_id=uuid4(), authority=WHO, route=to)
    assert allowed.max_tokens == 16
    with pytest.raises(TollbridgeError, match="15 output tokens") as refused:
        await admission(least - 1).fund(request=request, request_id=uuid4(), authority=WHO, route=to)
    assert refused.value.details["affordable_tokens"] == "15"


async def test_a_refusal_by_a_cap_says_what_is_left_under_it(monkeypatch):
    """402 of its own, with the tokens that it covers; the caps of who asks went along."""
    price = PriceVersion(rates=Rates(input=10**9, output=4 * 10**9), cost=Rates())
    request = parse_chat(b'{"model": "fast", "messages": [{"role": "user", "content": "Hi"}]}')
    to = route(price, Bounds(max_output=1000))
    who = dataclasses.replace(WHO, caps=(SpendCap(owner="key:k", per="day", amount_nano_usd=1),))

    async def grant_lease(_self, *, caps, **_):
        assert caps == who.caps
        raise TollbridgeError(Code.SPEND_CAP_REACHED, "no", details={"affordable_nano_usd": "1"})

    monkeypatch.setattr(Lender, "grant_lease", grant_lease)
    with pytest.raises(TollbridgeError, match=r"spend cap.* 0 output tokens") as refused:
        await admission(0).fund(request=request, request_id=uuid4(), authority=who, route=to)
    assert refused.value.code is Code.SPEND_CAP_REACHED


async def test_a_long_text_is_counted_before_it_is_refused():
    """Its bytes are many times its tokens: a balance for these is enough, also where nothing is ever clamped."""
    price = PriceVersion(rates=Rates(input=10**9, output=4 * 10**9), cost=Rates())
    text = "The quick brown fox jumps over the lazy dog. " * 1000
    body = f'{{"model": "fast", "max_tokens": 50, "messages": [{{"role": "user", "content": "{text}"}}]}}'
    request, to = parse_chat(body.encode()), route(price, Bounds(max_output=1000))
    least = worst_case_nano_usd(price, input_tokens=counted(request, to), output_tokens=50)
    assert least * 2 < worst_case_nano_usd(price, input_tokens=request.input_tokens(to.bounds), output_tokens=50)
    for clamps in (True, False):
        funding = admission(least, clamps=clamps)
        allowed = await funding.fund(request=request, request_id=uuid4(), authority=WHO, route=to)
        assert (allowed.max_tokens, allowed.clamped) == (50, False)
        poor = admission(least // 2, clamps=clamps)
        with pytest.raises(TollbridgeError):
            await poor.fund(request=request, request_id=uuid4(), authority=WHO, route=to)


@pytest.mark.parametrize("how", ["fails", "is given up"])
async def test_what_was_drawn_is_given_back_when_the_counting(how: str, monkeypatch: pytest.MonkeyPatch):
    """Nobody else could: the request has not heard of its draw yet."""
    begun, go_on = threading.Event(), threading.Event()

    def count(request: PaidRequest, model: str) -> int:
        begun.set()
        go_on.wait(20)
        raise RuntimeError("no tokenizer")

    monkeypatch.setattr(PaidRequest, "most_prompt_tokens", count)
    price = PriceVersion(rates=Rates(input=10**9, output=4 * 10**9), cost=Rates())
    request = parse_chat(b'{"model": "fast", "messages": [{"role": "user", "content": "Hi"}]}')
    to = route(price, Bounds(max_output=1000))
    lender = Lender(worst_case_nano_usd(price, input_tokens=request.input_tokens(to.bounds), output_tokens=100))
    before = lender.available
    funding = asyncio.create_task(
        admission_of(lender).fund(request=request, request_id=uuid4(), authority=WHO, route=to)
    )
    await asyncio.to_thread(begun.wait, 5)
    assert lender.granted
    if how == "is given up":
        funding.cancel()
    go_on.set()
    with pytest.raises((RuntimeError, asyncio.CancelledError)):
        await funding
    await asyncio.sleep(0.01)
    assert (lender.granted, lender.available) == ({}, before)


def test_a_text_is_counted_exactly_for_the_models_of_the_tokenizers_maker():
    """And with half as many tokens again for others', whose own tokenizer nobody has."""
    body = b'{"messages": [{"role": "user", "content": "Hello"}]}'
    exact = count_prompt(body, "gpt-4o")
    assert [cautiously(exact, model) for model in ("gpt-4o", "openai/o3", "claude")] == [exact, exact, 7]
    assert exact == 5


@pytest.mark.parametrize(
    "thinking",
    [
        '"thinking": {"type": "enabled", "budget_tokens": 100}',
        '"reasoning": {"max_tokens": 100}',
    ],
)
@pytest.mark.parametrize("limit", ["", '"max_tokens": 500, '])
async def test_output_is_never_clamped_below_a_thinking_budget(thinking: str, limit: str):
    """Sixteen tokens beside the thinking run; one nano-dollar less is a 402 that says what is affordable."""
    price = PriceVersion(rates=Rates(input=10**9, output=4 * 10**9), cost=Rates())
    body = f'{{"model": "fast", {limit}{thinking}, "messages": [{{"role": "user", "content": "Hi"}}]}}'
    request, to = parse_chat(body.encode()), route(price, Bounds(max_output=1000))
    least = worst_case_nano_usd(price, input_tokens=counted(request, to), output_tokens=116)
    allowed = await admission(least).fund(request=request, request_id=uuid4(), authority=WHO, route=to)
    assert (allowed.max_tokens, allowed.clamped) == (116, True)
    with pytest.raises(TollbridgeError, match="cover 115 output tokens, and it needs 116") as refused:
        await admission(least - 1).fund(request=request, request_id=uuid4(), authority=WHO, route=to)
    assert refused.value.code is Code.INSUFFICIENT_CREDITS
    assert refused.value.details["affordable_tokens"] == "115"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ('"max_tokens": 100, "thinking": {"type": "enabled", "budget_tokens": 100}', Code.INVALID_REQUEST),
        ('"thinking": {"type": "enabled", "budget_tokens": 1000}', Code.INVALID_REQUEST),
        ('"max_tokens": 101, "thinking": {"type": "enabled", "budget_tokens": 100}', None),
        ('"max_tokens": 10, "thinking": {"type": "disabled", "budget_tokens": 100}', None),
        ('"max_tokens": 10, "thinking": {"type": "enabled"}, "reasoning": {"effort": "high"}', None),
        ('"max_tokens": 10, "thinking": true, "reasoning": "auto"', None),
    ],
)
async def test_a_limit_that_thinking_would_use_up_is_a_400(fields: str, code: Code | None):
    """The provider is never sent a limit that is not above the thinking budget, rich or poor."""
    price = PriceVersion(rates=Rates(input=10**9, output=4 * 10**9), cost=Rates())
    request = parse_chat(f'{{"model": "fast", {fields}, "messages": [{{"role": "user", "content": "Hi"}}]}}'.encode())
    funding = admission(10**15).fund(
        request=request, request_id=uuid4(), authority=WHO, route=route(price, Bounds(max_output=1000))
    )
    if code is None:
        assert not (await funding).clamped
        return
    with pytest.raises(TollbridgeError, match="thinking budget") as refused:
        await funding
    assert refused.value.code is code


def test_a_key_is_read_whatever_its_scheme_is_called():
    """`bearer` in any case counts, as HTTP has it."""
    assert api_key_of([(b"authorization", b"bearer abc")]) == "abc"
    with pytest.raises(TollbridgeError) as refused:
        api_key_of([(b"authorization", b"Basic abc")])
    assert refused.value.code is Code.INVALID_API_KEY


def test_images_count_by_the_piece_where_the_model_says_so():
    """A picture of many bytes is not held for by its bytes."""
    picture = "data:image/png;base64," + "A" * 10_000
    body = (
        b'{"model": "fast", "messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, '
        b'{"type": "image_url", "image_url": {"url": "' + picture.encode() + b'"}}]}]}'
    )
    request = parse_chat(body)
    assert request.input_tokens(Bounds(max_part_tokens=1500)) < 1500 + 300
    assert request.input_tokens(Bounds()) > 10_000


class Auth:
    """Knows every key and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def authorize(self, *, api_key: str, **_) -> Authority:
        self.asked.append(api_key)
        return dataclasses.replace(WHO, key_id=f"id of {api_key}", customer_id=f"owner of {api_key}", keep_s=60)


async def known_after(asks, monkeypatch) -> list[str]:
    """The keys of a, b, c and d that auth is not asked for again."""
    auth, it = Auth(), admission(0)
    monkeypatch.setattr(it, "_auth", auth)
    await asks(it)
    auth.asked.clear()
    for key in "dcba":  # from the newest, since asking makes others give way
        await it.authorize(api_key=key, client_ip="")
    return [key for key in "abcd" if key not in auth.asked]


async def test_without_room_the_oldest_answer_of_auth_gives_way_and_the_others_stay(monkeypatch):
    """Clearing all of them would send every key to auth at once."""
    monkeypatch.setattr("services.edge.paid.admission.MAX_KEPT", 3)

    async def asks(it: Admission) -> None:
        for key in "abcd":
            await it.authorize(api_key=key, client_ip="")

    assert await known_after(asks, monkeypatch) == ["b", "c", "d"]


async def test_one_message_of_auth_voids_all_that_it_names(monkeypatch):
    """Keys by their id, and everything of a customer who is named without one."""
    changed = auth_pb2.KeyChangedBatch(
        events=[
            auth_pb2.KeyChanged(key_id="id of a", customer_id="owner of a"),
            auth_pb2.KeyChanged(key_id="id of none", customer_id="owner of b"),
            auth_pb2.KeyChanged(customer_id="owner of c"),
        ]
    )

    async def asks(it: Admission) -> None:
        for key in "abcd":
            await it.authorize(api_key=key, client_ip="")
        await it.on_keys_changed(changed.SerializeToString())

    assert await known_after(asks, monkeypatch) == ["b", "d"]
