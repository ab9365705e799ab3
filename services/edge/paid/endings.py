"""How a request can end, and what each end charges: the rules of money.md in one place.

A customer pays for finished answers and for what they themselves cut short; never for what the provider or the gateway
failed to finish.
"""

import asyncio
from collections.abc import Callable

from chassis.errors import TollbridgeError
from pricing.charge import is_charged_as_reported
from pricing.prices import usd_number
from pricing.tokens import Tokens
from services.edge.http.reply import Reply
from services.edge.limits.gate import Admitted
from services.edge.paid.admission import Allowance
from services.edge.paid.counting import counted
from services.edge.paid.paid_request import PaidRequest
from services.edge.spending import settlement
from services.edge.spending.settlement import Ending, Tab, Use
from upstream.outcome import AttemptFailed, TotalTimeReached
from upstream.route import OnDisconnect, Route
from upstream.usage import Captured, UsageLimits

CLIENT_CLOSED_REQUEST = 499
"""The status in logs of a request whose client left before it got one."""


class Endings:
    """The ends of one request. Each closes its tab and gives back what of its limits it no longer needs; the first one
    counts."""

    __slots__ = ("_admitted", "_drains", "_gone", "_had_bytes", "_loop", "_reply", "_request", "_tab", "limits")

    def __init__(
        self,
        *,
        tab: Tab,
        reply: Reply,
        request: PaidRequest,
        admitted: Admitted | None = None,
        drains: bool = False,
    ) -> None:
        self._admitted = admitted
        self._drains = drains
        self._had_bytes = False
        self._tab = tab
        self._reply = reply
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._gone = False
        self.limits = UsageLimits(max_input=0, max_output=0)

    async def open(self, route: Route, allowance: Allowance) -> None:
        """Opens the tab for an attempt; from here on the request counts against its limits."""
        self.limits = allowance.limits
        await self._tab.open(route=route, draw=allowance.draw)
        if self._admitted is not None:
            self._admitted.begin()

    def is_gone(self) -> bool:
        """Whether the client has left before its last bytes."""
        return self._gone

    def mark_gone(self) -> None:
        """The client has left."""
        if not self._gone:
            self._had_bytes = self._reply.started
        self._gone = True

    @property
    def policy(self) -> OnDisconnect:
        """What the client's leaving means: the route's policy, but drain for a client that will ask again."""
        if self._tab.route is None:
            return OnDisconnect.ABSORB
        return OnDisconnect.DRAIN if self._drains else self._tab.route.on_disconnect

    @staticmethod
    def is_total(failure: AttemptFailed) -> bool:
        """Whether the route's total time is over: the answer then ends as `length`, charged as delivered."""
        return isinstance(failure, TotalTimeReached)

    async def use(self, captured: Captured, text: Callable[[], str]) -> Use:
        """What is charged for a finished answer: the provider's counts, or ours where it gave none.

        Flagged where the price goes by the cost that the provider reports, and the list price has to stand in for it.
        """
        if self._admitted is not None:
            await self._reply.look()
        if captured.tokens is None:
            return await self._counted(captured, text)
        return Use(
            tokens=captured.tokens,
            units=captured.units,
            evidence=settlement.EVIDENCE_PROVIDER,
            reported_cost_nano_usd=captured.reported_cost_nano_usd,
            generation_id=captured.generation_id,
            implausible=captured.implausible or self._misses_cost(captured, captured.tokens),
        )

    def _misses_cost(self, captured: Captured, tokens: Tokens) -> bool:
        price = self._tab.route.price if self._tab.route is not None else None
        if price is None or not price.cost_reported:
            return False
        cost = captured.reported_cost_nano_usd
        return not is_charged_as_reported(tokens, captured.units, price, reported_cost_nano_usd=cost)

    def cost(self, use: Use) -> str:
        """`usage.cost`: what the customer pays, as a JSON number in USD."""
        return usd_number(self._tab.price(use))

    def complete(self, use: Use) -> None:
        """The last bytes are handed to the client in this turn of the loop, or kept for it."""
        if not self._gone:
            self._reply.mark_first_byte()
        self.close(self.finished(use))

    def finished(self, use: Use) -> Ending:
        """The whole answer, and its charge; who left meanwhile, and can ask for it again, pays the same."""
        if self._gone:
            return self._ending(settlement.ENDED_CLIENT_GONE, use=use, charged=True, policy=self.policy)
        return self._ending(settlement.ENDED_COMPLETE, http_status=200, use=use, charged=True)

    async def client_gone(self, captured: Captured, text: Callable[[], str]) -> None:
        """The client left before the last bytes: charged by the policy."""
        self.close(await self.left(captured, text))

    async def left(self, captured: Captured, text: Callable[[], str]) -> Ending:
        """The end of a request whose client left before the last bytes.

        drain: what the provider reports, or what was delivered when it did not come to that. cancel: what was
        delivered. absorb: nothing. Who got nothing pays only for a drained, finished answer.
        """
        policy = self.policy
        drained = captured.complete and policy is OnDisconnect.DRAIN
        if policy is OnDisconnect.ABSORB or not (drained or self._had_bytes):
            return self._ending(settlement.ENDED_CLIENT_GONE, use=None, charged=False, policy=policy)
        whole = captured.complete and captured.tokens is not None
        use = await self.use(captured, text) if whole else await self._counted(captured, text)
        return self._ending(settlement.ENDED_CLIENT_GONE, use=use, charged=True, policy=policy)

    def close(self, ending: Ending) -> None:
        """Closes the tab with this end, unless it is closed."""
        self._tab.close(ending, now_s=self._loop.time())
        if self._admitted is not None:
            tokens = ending.use.tokens if ending.use is not None else None
            self._admitted.end(tokens=tokens.prompt + tokens.completion if tokens is not None else 0)

    async def note_gone(self, captured: Captured, text: Callable[[], str]) -> None:
        """Writes down what the client had when it left, while its stream is read on: for the case that we die first."""
        if not self._reply.started:
            return
        use = await self._counted(captured, text)
        ending = self._ending(settlement.ENDED_CLIENT_GONE, use=use, charged=True, policy=OnDisconnect.DRAIN)
        self._tab.note(ending, now_s=self._loop.time())

    def unanswered(self) -> None:
        """The client left before anything was answered, and waiting for the answer was given up."""
        policy = self.policy if self._tab.route is not None else None
        self._close(settlement.ENDED_CLIENT_GONE, use=None, policy=policy)

    async def upstream_failed(self, captured: Captured, text: Callable[[], str]) -> None:
        """The provider broke off its answer: nothing is charged; what it cost the house is written down."""
        use = await self._counted(captured, text)
        self._close(settlement.ENDED_UPSTREAM_FAILED, use=use)

    def refused(self, error: TollbridgeError, *, ours: bool) -> None:
        """Every attempt failed, or the request was refused after one; `ours` is a failure of the gateway."""
        status = self._reply.status if self._reply.started else self._reply.rendered(error).status
        ended = settlement.ENDED_GATEWAY_FAILED if ours else settlement.ENDED_UPSTREAM_FAILED
        if self._gone and not ours:
            ended = settlement.ENDED_CLIENT_GONE
        self._close(ended, use=None, http_status=status)

    def gateway_failed(self) -> None:
        """We did not bring it to an end."""
        self._close(settlement.ENDED_GATEWAY_FAILED, use=None)

    async def _counted(self, captured: Captured, text: Callable[[], str]) -> Use:
        model = self._tab.route.provider_model if self._tab.route is not None else ""
        return await counted(
            request=self._request, text=text, provider_model=model, captured=captured, limits=self.limits
        )

    def _close(
        self,
        ended: settlement.Ended,
        *,
        use: Use | None,
        charged: bool = False,
        http_status: int | None = None,
        policy: OnDisconnect | None = None,
    ) -> None:
        self.close(self._ending(ended, use=use, charged=charged, http_status=http_status, policy=policy))

    def _ending(
        self,
        ended: settlement.Ended,
        *,
        use: Use | None,
        charged: bool,
        http_status: int | None = None,
        policy: OnDisconnect | None = None,
    ) -> Ending:
        return Ending(
            ended=ended,
            http_status=http_status or self._reply.status or CLIENT_CLOSED_REQUEST,
            use=use,
            charged=charged,
            policy=policy.value if policy is not None else "",
            first_byte_s=self._reply.first_byte_s,
        )
