"""The allotment: however statements are lost, late or doubled, no more is drawn than the limit allows."""

from hypothesis import given, settings
from hypothesis import strategies as st

from services.edge.limits.allotment import Allotment, Draw
from services.edge.limits.terms import Kind, LeaseOfKind, Statement, Terms
from tests.unit.edge.limit_desk import LimitDesk
from tollbridge.auth.v1 import auth_pb2

TERMS = Terms(subject="k", limits={Kind.REQUESTS: 5, Kind.TOKENS: 1000, Kind.CONCURRENT: 3})
WIDE = Terms(subject="k", limits={Kind.REQUESTS: 6000})


class Edge:
    """One incarnation: an allotment and a way to auth that may lose either direction."""

    def __init__(self, name: str, desk: LimitDesk, clock: list[float], terms: Terms = TERMS) -> None:
        self.name, self.desk, self.clock, self.number, self.terms = name, desk, clock, 0, terms
        self.allotment = Allotment("k")
        self.allotment.limit_by(terms)
        self.draws: list[Draw] = []
        self.late: list[auth_pb2.LeaseLimitsRequest] = []

    def ask(self, waiting: int, tokens: int = 100, *, lost: str = "") -> Statement:
        """One statement; `lost` is the way that does not arrive: `there` (yet), or `back`."""
        self.number += 1
        needs = {Kind.REQUESTS: waiting, Kind.TOKENS: waiting * tokens, Kind.CONCURRENT: waiting}
        statement = self.allotment.statement(number=self.number, waiting=needs, now_s=self.clock[0])
        request = auth_pb2.LeaseLimitsRequest(
            spender=self.name,
            subject="k",
            since=statement.since,
            number=statement.number,
            limits=[
                auth_pb2.LimitStatement(
                    kind=int(each.kind),  # type: ignore[arg-type]  # the numbers are the same
                    limit=each.limit,
                    spent=each.spent,
                    lately=[auth_pb2.LimitSpent(units=spent.units, age_ms=spent.age_ms) for spent in each.lately],
                    open=each.open,
                    wanted=each.wanted,
                    needed=each.needed,
                )
                for each in statement.limits
            ],
        )
        if lost == "there":
            self.late.append(request)
            return statement
        reply = self.desk.answer(request)
        if lost != "back":
            self.adopt(reply)
        return statement

    def adopt(self, reply: auth_pb2.LeaseLimitsResponse) -> None:
        leases = {
            Kind(lease.kind): LeaseOfKind(held=lease.held, remaining=lease.remaining, retry_after_s=1.0)
            for lease in reply.leases
        }
        self.allotment.adopt(leases, ttl_s=reply.ttl_s, now_s=self.clock[0])

    def draw(self, tokens: int = 100) -> Draw | None:
        draw = self.allotment.draw(tokens, now_s=self.clock[0])
        if draw is not None:
            self.draws.append(draw)
        return draw

    def move(self, draw: Draw, move: str, *, tokens: int) -> None:
        """Begins a request, or ends it, begun or not."""
        if move != "unused":
            self.allotment.begin(draw, now_s=self.clock[0])
        if move != "begin":
            self.allotment.end(draw, tokens=tokens, now_s=self.clock[0])

    def remaining(self, kind: Kind) -> int:
        return self.allotment.figures(self.clock[0])[kind].remaining


def a_desk(clock: list[float]) -> LimitDesk:
    desk = LimitDesk()
    desk.now_ms = lambda: int(clock[0] * 1000)
    return desk


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["draw", "ask", "begin", "end", "unused", "wait", "lose there", "lose back", "late", "lapse"]),
        st.integers(0, 1),
        st.integers(1, 20),
    ),
    max_size=80,
)


@given(moves=MOVES)
@settings(max_examples=100, deadline=None)
def test_two_edges_never_let_in_more_than_the_limit_whatever_is_lost(moves: list[tuple[str, int, int]]):
    """At most 5 requests begin in any 60 s, and at most 3 run, over both."""
    clock = [100.0]
    desk = a_desk(clock)
    edges = [Edge("e0", desk, clock), Edge("e1", desk, clock)]
    for move, which, number in moves:
        edge = edges[which]
        if move == "wait":
            clock[0] += number
        elif move == "draw":
            edge.draw()
        elif move == "ask":
            edge.ask(number % 4)
        elif move.startswith("lose"):
            edge.ask(number % 4, lost=move.split()[1])
        elif move == "late" and edge.late:
            desk.answer(edge.late.pop(number % len(edge.late)))
        elif move == "lapse":
            edge.allotment.lapse(clock[0])
        elif edge.draws:
            edge.move(edge.draws[number % len(edge.draws)], move, tokens=number * 10)
        running = sum(not draw.ended for each in edges for draw in each.draws)
        began = sorted(draw.started_s for each in edges for draw in each.draws if draw.begun)
        open_now = sum(not draw.begun and not draw.ended for each in edges for draw in each.draws)
        assert running <= 3
        assert open_now + sum(at > clock[0] - 60 for at in began) <= 5
        assert all(last - first > 60 for first, last in zip(began, began[5:], strict=False))


def test_nothing_is_drawn_between_a_statement_and_its_answer():
    """Auth may be giving away what is free."""
    clock = [100.0]
    edge = Edge("e", a_desk(clock), clock)
    edge.ask(2)
    assert edge.draw() is not None
    edge.ask(1, lost="back")
    assert edge.draw() is None
    edge.ask(1)
    assert edge.draw() is not None


def test_what_was_refused_before_its_provider_was_called_used_nothing_up():
    """All of it is there for the next."""
    clock = [100.0]
    edge = Edge("e", a_desk(clock), clock)
    edge.ask(1)
    draw = edge.draw()
    assert draw is not None
    edge.allotment.end(draw, tokens=0, now_s=100.0)
    edge.ask(0)
    assert [edge.remaining(kind) for kind in TERMS.limits] == [5, 1000, 3]


def test_true_tokens_stand_for_the_estimate_once_they_are_known():
    """Less goes back, more counts too."""
    clock = [100.0]
    desk = a_desk(clock)
    edge = Edge("e", desk, clock)
    for estimate, used, counted in ((100, 30, 30), (100, 250, 280)):
        edge.ask(1, estimate)
        draw = edge.draw(estimate)
        assert draw is not None
        edge.allotment.begin(draw, now_s=clock[0])
        edge.allotment.end(draw, tokens=used, now_s=clock[0])
        edge.ask(0)
        assert desk.counted("k", Kind.TOKENS) == counted
        assert edge.remaining(Kind.TOKENS) == 1000 - counted


def test_tokens_of_a_long_stream_count_for_60_seconds_from_its_start():
    """Then they are free again, though it runs on."""
    clock = [100.0]
    desk = a_desk(clock)
    edge = Edge("e", desk, clock)
    edge.ask(1, 900)
    draw = edge.draw(900)
    assert draw is not None
    edge.allotment.begin(draw, now_s=clock[0])
    clock[0] += 59
    edge.allotment.lapse(clock[0])
    edge.ask(0)
    assert edge.remaining(Kind.TOKENS) == 100
    clock[0] += 1.5
    edge.allotment.lapse(clock[0])
    edge.ask(0)
    assert edge.remaining(Kind.TOKENS) == 1000
    edge.allotment.end(draw, tokens=950, now_s=clock[0])
    edge.ask(0)
    assert edge.remaining(Kind.TOKENS) == 950


def test_leases_that_may_have_run_out_are_not_drawn_from():
    """A machine that slept finds them gone, also when auth is heard again."""
    clock = [100.0]
    edge = Edge("e", a_desk(clock), clock)
    edge.ask(2)
    clock[0] += 31
    edge.allotment.renew(clock[0])
    assert edge.draw() is None
    edge.ask(2)
    assert edge.draw() is not None


def test_a_wide_limit_is_leased_for_two_seconds_ahead_and_idle_leases_go_back():
    """So a busy key does not ask for each request."""
    clock = [100.0]
    desk = a_desk(clock)
    edge = Edge("e", desk, clock, WIDE)
    for _ in range(50):
        edge.ask(1)
        draw = edge.draw()
        assert draw is not None
        edge.allotment.begin(draw, now_s=clock[0])
        edge.allotment.end(draw, tokens=0, now_s=clock[0])
    edge.ask(0)
    held = desk.held("k", Kind.REQUESTS)
    assert 40 <= held <= 100
    drawn = [edge.draw() for _ in range(held)]
    assert None not in drawn
    for draw in drawn:
        assert draw is not None
        edge.allotment.end(draw, tokens=0, now_s=clock[0])
    clock[0] += 10
    assert edge.allotment.has_news(clock[0])
    edge.ask(0)
    assert desk.held("k", Kind.REQUESTS) == 0
    assert edge.allotment.is_settled
