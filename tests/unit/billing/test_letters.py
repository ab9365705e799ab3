"""Dead letters: each keeps its hold until it is resolved, once, by the operator or by a later event."""

import json
from uuid import UUID, uuid4

import msgspec.structs
import psycopg
import pytest

from chassis.errors import Code, TollbridgeError
from chassis.ids import unix_ms, uuid7, uuid7_at
from cli import letters as commands
from cli.schema import migrate
from services.billing.holding.leases import Page
from services.billing.ledger import Usage, UsageKind
from services.billing.letter_store import Letter
from services.billing.letters import DeadLetters, Resolution
from services.billing.proof.reconcile import verify
from services.billing.settlement import Fate
from tests.unit.billing.bank import SPENDER, PostgresBank, event

CREDIT, HELD = 1_000, 400


class Case:
    """A customer with one hold, and a charge for it that can't be right."""

    def __init__(self, bank: PostgresBank) -> None:
        self.bank = bank
        self.customer = f"customer-{uuid4()}"
        self.request_id, self.hold_id = uuid7(), uuid7()
        assert not bank.open(self.customer, CREDIT)
        assert not bank.grant(self.hold_id, self.customer, HELD, 0, self.request_id)
        self.poison = event(self.usage(), charge_nano_usd=301)
        self.letters = DeadLetters(pool=bank.pool, kept_days=lambda: 400)

    def usage(self, kind: UsageKind = UsageKind.CHARGE, amount: int = 300) -> Usage:
        return Usage(
            request_id=self.request_id,
            kind=kind,
            customer_id=self.customer,
            hold_id=self.hold_id,
            closes_hold=True,
            charge_nano_usd=amount if kind is UsageKind.CHARGE else 0,
        )

    def send(self, *messages: object) -> list[Fate]:
        return self.bank.run(self.bank.settlement.apply(list(messages)))  # type: ignore[arg-type]

    def letter(self) -> Letter:
        [found] = [it for it in self.bank.run(self.letters.list(resolved_too=True)) if it.customer_id == self.customer]
        return found

    def resolve(self, how: Resolution, charge: int = 0) -> Letter:
        return self.bank.run(
            self.letters.resolve(self.letter().id, how, charge_nano_usd=charge, by="ann", because="looked it up")
        )

    def seen(self) -> tuple[int, int, str]:
        """used, held, the hold's state"""
        account = self.bank.account(self.customer)
        return account[1], account[2], self.bank.hold(self.hold_id)[3]

    def pinned(self) -> bool:
        with psycopg.connect(self.bank.url) as admin:
            row = admin.execute("SELECT pinned FROM billing.holds WHERE id = %s", (self.hold_id,)).fetchone()
        assert row is not None
        return bool(row[0])


@pytest.fixture
def case(bank: PostgresBank) -> Case:
    """With its event set aside."""
    made = Case(bank)
    assert made.send(made.poison) == [Fate.DEAD_LETTERED]
    assert made.seen() == (0, HELD, "open")
    assert made.pinned()
    return made


@pytest.mark.parametrize(
    ("how", "charge", "seen"),
    [(Resolution.CHARGE, 250, (250, 0, "settled")), (Resolution.VOID, 0, (0, 0, "settled"))],
)
def test_a_resolved_letter_moves_its_money_and_ends_its_hold(
    case: Case, billing_url: str, how: Resolution, charge: int, seen: tuple[int, int, str]
):
    """The operator's charge or void is applied, and the letter says who decided what, when and why."""
    resolved = case.resolve(how, charge)
    assert case.seen() == seen
    assert (resolved.resolution, resolved.resolved_by, resolved.resolved_because) == (how, "ann", "looked it up")
    assert resolved.resolved_charge_nano_usd == charge
    assert resolved.resolved_at_us >= resolved.arrived_at_us > 0
    report = verify(billing_url)
    assert report.clean, report.checks


def test_a_dropped_letter_lets_its_hold_end_by_its_time(case: Case):
    """Nothing is applied; the hold is like any other again."""
    case.resolve(Resolution.DROP)
    assert case.seen() == (0, HELD, "open")
    assert not case.pinned()
    assert not case.bank.give_back(case.hold_id, 0, True)
    assert case.seen() == (0, 0, "settled")


def test_a_letter_is_resolved_once(case: Case):
    """The same again changes nothing; another way is refused."""
    first = case.resolve(Resolution.CHARGE, 250)
    assert case.resolve(Resolution.CHARGE, 250) == first
    for how, charge in ((Resolution.VOID, 0), (Resolution.CHARGE, 251)):
        with pytest.raises(TollbridgeError) as caught:
            case.resolve(how, charge)
        assert caught.value.code is Code.CONFLICT
    assert case.seen() == (250, 0, "settled")


def test_the_same_bytes_again_keep_no_hold_once_resolved(case: Case):
    """A redelivery meets the letter that was resolved."""
    case.resolve(Resolution.DROP)
    assert case.send(case.poison) == [Fate.DEAD_LETTERED]
    assert not case.pinned()
    assert case.letter().resolution == "drop"


def test_a_later_event_of_the_request_resolves_its_letter(case: Case):
    """What is accepted at last takes the hold and closes the letter."""
    assert case.send(event(case.usage())) == [Fate.COMMITTED]
    assert case.seen() == (300, 0, "settled")
    assert case.letter().resolution == "superseded"


def test_a_later_void_frees_the_hold_and_leaves_the_charge_to_the_operator(case: Case):
    """A void must not make a charge forgotten that somebody should look at."""
    assert case.send(event(case.usage(UsageKind.VOID))) == [Fate.COMMITTED]
    assert case.seen() == (0, 0, "settled")
    assert case.letter().resolution == ""
    case.resolve(Resolution.CHARGE, 200)
    assert case.seen() == (200, 0, "settled")


def test_a_hold_that_two_letters_keep_waits_for_both(case: Case):
    """The first resolution doesn't take the hold from the second letter."""
    other = event(case.usage(), charge_nano_usd=302, request_id=str(uuid7()))
    assert case.send(other) == [Fate.DEAD_LETTERED]
    mine = [it for it in case.bank.run(case.letters.list(resolved_too=False)) if it.customer_id == case.customer]
    pinned = []
    for letter in mine:
        case.bank.run(case.letters.resolve(letter.id, Resolution.DROP, by="ann", because=""))
        pinned.append(case.pinned())
    assert pinned == [True, False]


def test_a_charge_that_came_meanwhile_is_not_charged_twice(case: Case):
    """The request's one charge is a constraint; the letter can only be dropped then."""
    case.bank.run(case.letters.resolve(case.letter().id, Resolution.DROP, by="ann", because=""))
    second = event(case.usage(), charge_nano_usd=299)
    assert case.send(event(case.usage()), second) == [Fate.COMMITTED, Fate.DEAD_LETTERED]
    [letter] = [it for it in case.bank.run(case.letters.list(resolved_too=False)) if it.customer_id == case.customer]
    with pytest.raises(TollbridgeError) as caught:
        case.bank.run(case.letters.resolve(letter.id, Resolution.CHARGE, charge_nano_usd=5, by="ann", because=""))
    assert caught.value.code is Code.CONFLICT


def test_an_unknown_letter_is_not_found(case: Case):
    """Nor is one invented."""
    with pytest.raises(TollbridgeError) as caught:
        case.bank.run(case.letters.resolve(UUID(int=7), Resolution.DROP, by="ann", because=""))
    assert caught.value.code is Code.NOT_FOUND


def test_the_operators_command_lists_shows_and_resolves(
    case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """What `tollbridge ledger` does with a letter, by its exit codes and its JSON."""
    monkeypatch.setenv("TOLLBRIDGE_DATABASE_URL", case.bank.url)
    migrate(case.bank.url, service="auth")
    letter_id = case.letter().id
    assert commands.show_all(None, resolved_too=False, as_json=True) == 0
    assert str(letter_id) in {item["id"] for item in json.loads(capsys.readouterr().out)}
    assert commands.resolve(None, letter_id, how="", charge_usd="", by="ann", because="") == 0
    assert json.loads(capsys.readouterr().out)["event"]["charge_nano_usd"] == "301"
    assert commands.resolve(None, letter_id, how="charge", charge_usd="much", by="ann", because="") == 1
    assert commands.resolve(None, letter_id, how="charge", charge_usd="0.00000025", by="ann", because="") == 0
    assert json.loads(capsys.readouterr().out)["resolved_charge_usd"] == "0.000000250"
    assert commands.resolve(None, letter_id, how="void", charge_usd="", by="ann", because="") == 1
    assert case.seen() == (250, 0, "settled")
    with psycopg.connect(case.bank.url) as admin:
        logged = admin.execute(
            "SELECT a.actor, a.path, a.parameters::json->>'how', o.status FROM auth.admin_actions a"
            " JOIN auth.admin_outcomes o ON o.action_id = a.id"
            " WHERE a.parameters::json->>'letter_id' = %s ORDER BY a.id",
            (str(letter_id),),
        ).fetchall()
    made = ("cli:ann", "ledger resolve")
    assert logged == [(*made, "charge", 1), (*made, "charge", 0), (*made, "void", 1)]


def test_a_decision_that_cant_be_logged_is_not_taken(case: Case, monkeypatch: pytest.MonkeyPatch):
    """The letter waits, and the command says so by its exit code."""
    monkeypatch.setenv("TOLLBRIDGE_DATABASE_URL", case.bank.url)
    migrate(case.bank.url, service="auth")

    async def unavailable(*_: object) -> None:
        raise TollbridgeError(Code.UNAVAILABLE, "The database is away.")

    monkeypatch.setattr("services.auth.audit_store.insert_action", unavailable)
    letter_id = case.letter().id
    assert commands.resolve(None, letter_id, how="void", charge_usd="", by="ann", because="") == 2

    async def not_there(*_: object) -> None:
        raise psycopg.errors.UndefinedTable("auth was not migrated")

    monkeypatch.setattr("services.auth.audit_store.insert_action", not_there)
    assert commands.resolve(None, letter_id, how="void", charge_usd="", by="ann", because="") == 2
    assert case.seen() == (0, HELD, "open")


class Shared(Case):
    """A lease of 400 for many requests, and a charge of 301 of one of them that can't be right."""

    def __init__(self, bank: PostgresBank) -> None:
        super().__init__(bank)
        bank.admin.execute("UPDATE billing.holds SET request_id = NULL WHERE id = %s", (self.hold_id,))
        assert self.send(self.poison) == [Fate.DEAD_LETTERED]
        assert self.seen() == (0, HELD, "open")

    def usage(self, kind: UsageKind = UsageKind.CHARGE, amount: int = 300) -> Usage:
        return msgspec.structs.replace(super().usage(kind, amount), closes_hold=False)

    def state(self, *, ended: bool) -> None:
        """Without this lease."""
        page = Page(spender=SPENDER, as_of=uuid7_at(unix_ms(uuid7()) + 1), spender_ended=ended)
        self.bank.run(self.bank.leases.state(page))


@pytest.fixture
def shared(bank: PostgresBank) -> Shared:
    """With its event set aside."""
    return Shared(bank)


@pytest.mark.parametrize("ended", [False, True])
def test_of_a_lease_for_many_that_is_stated_no_more_a_letter_keeps_its_charge(shared: Shared, ended: bool):
    """Whether its spender was killed or could not give it back; then the operator's charge takes it from there."""
    for _ in range(2):
        shared.state(ended=ended)
        assert shared.seen() == (0, 301, "open")
        assert shared.pinned()
    shared.resolve(Resolution.CHARGE, 300)
    assert shared.seen()[0] == 300
    assert not shared.bank.expire(shared.hold_id)
    assert shared.seen() == (300, 0, "expired")
    assert verify(shared.bank.url).clean


def test_of_a_lease_for_many_that_is_given_back_all_its_letters_keep_their_charges(shared: Shared):
    """The sum of those that are open; each that is resolved lets go of its part when the lease's time is over."""
    other = event(shared.usage(amount=40), charge_nano_usd=41, request_id=str(uuid7()))
    assert shared.send(other) == [Fate.DEAD_LETTERED]
    assert not shared.bank.give_back(shared.hold_id, 0, True)
    assert shared.seen() == (0, 342, "open")
    letters = [
        it for it in shared.bank.run(shared.letters.list(resolved_too=False)) if it.customer_id == shared.customer
    ]
    [first] = [it for it in letters if it.request_id == shared.request_id]
    shared.bank.run(shared.letters.resolve(first.id, Resolution.DROP, by="ann", because=""))
    assert not shared.bank.expire(shared.hold_id)
    assert shared.seen() == (0, 41, "open")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["good first", "bad first"])
@pytest.mark.parametrize("together", [True, False], ids=["one batch", "two batches"])
def test_of_a_request_that_was_charged_a_wrong_twin_keeps_nothing(
    shared: Shared, order: tuple[int, int], *, together: bool
):
    """Two edges tell of one request, one of them wrong: however they come, its customer has the rest back."""
    shared.resolve(Resolution.DROP)
    usage = msgspec.structs.replace(shared.usage(amount=10), request_id=uuid7())
    twins = event(usage), event(usage, charge_nano_usd=11)
    sent = [twins[n] for n in order]
    for batch in [sent] if together else [[each] for each in sent]:
        shared.send(*batch)
    assert not shared.bank.give_back(shared.hold_id, 0, True)
    assert shared.seen() == (10, 0, "settled")
    found = [it for it in shared.bank.run(shared.letters.list(resolved_too=True)) if it.request_id == usage.request_id]
    assert len(found) == 1
    assert verify(shared.bank.url).clean


def test_a_lease_for_many_that_lapses_keeps_its_letters_charge_besides_what_is_unfinished(shared: Shared):
    """And at the end of the grace its charge alone, for as long as it takes."""
    with psycopg.connect(shared.bank.url) as admin:
        admin.execute("UPDATE billing.holds SET stated = 50 WHERE id = %s", (shared.hold_id,))
    for held in (351, 301, 301):
        assert not shared.bank.expire(shared.hold_id)
        assert shared.seen() == (0, held, "open")
    shared.resolve(Resolution.DROP)
    assert not shared.bank.expire(shared.hold_id)
    assert shared.seen() == (0, 0, "expired")


def test_a_lease_of_one_request_is_kept_whole_by_its_letter(case: Case):
    """What the request really cost is within what was held for it."""
    page = Page(spender=SPENDER, as_of=uuid7_at(unix_ms(uuid7()) + 1))
    case.bank.run(case.bank.leases.state(page))
    assert not case.bank.give_back(case.hold_id, 0, True)
    assert not case.bank.expire(case.hold_id)
    assert case.seen() == (0, HELD, "open")
