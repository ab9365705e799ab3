"""What image providers report of their usage: flagged where it can't be, and never charged then."""

import dataclasses

import pytest

from pricing.tokens import Tokens
from services.tasks.metrics import TasksCollector
from tests.unit.tasks import stage
from tests.unit.tasks.stage import CHARGE_PER_IMAGE, PRICE, TasksApi, usage_of
from tollbridge.usage.v1 import usage_pb2
from upstream.openai import images


def reports(monkeypatch: pytest.MonkeyPatch, **said: object) -> None:
    """Has the provider say something else of its answers."""
    read = images.read_answer

    def answer(body: bytes) -> images.ImagesAnswer:
        found = read(body)
        captured = dataclasses.replace(found.captured, **said)  # type: ignore[arg-type]  # by the test's own names
        return dataclasses.replace(found, captured=captured)

    monkeypatch.setattr(images, "read_answer", answer)


async def record_of(api: TasksApi) -> usage_pb2.UsageRecorded:
    await api.create()
    assert await api.process.run() is None
    (record,) = usage_of(await api.process.publish())
    return record


def counted(api: TasksApi) -> float:
    collector = TasksCollector(ends=api.process.ends, worker=api.process.worker, shifts={}, backlog=api.process.backlog)
    family = next(each for each in collector.collect() if each.name == "tollbridge_implausible_usage")
    return sum(sample.value for sample in family.samples)


async def test_usage_that_can_be_is_not_flagged(api: TasksApi):
    """An operator looks at what is."""
    assert not (await record_of(api)).implausible
    assert counted(api) == 0


@pytest.mark.parametrize(
    "said", [{"tokens": Tokens(output=1 << 40)}, {"tokens": None, "implausible": True}], ids=["too much", "impossible"]
)
async def test_usage_that_can_not_be_is_flagged_and_the_images_alone_are_charged(
    api: TasksApi, monkeypatch: pytest.MonkeyPatch, said: dict[str, object]
):
    """In the event, and for the operator in the metrics."""
    reports(monkeypatch, **said)
    record = await record_of(api)
    assert (record.implausible, record.charge_nano_usd) == (True, CHARGE_PER_IMAGE)
    assert record.evidence == usage_pb2.EVIDENCE_COUNTED
    assert counted(api) == 1


@pytest.mark.parametrize(("cost", "odd"), [(10_000_000, False), (20_000_001, True), (None, True)])
async def test_a_reported_cost_that_the_list_stands_in_for_is_flagged(
    api: TasksApi, monkeypatch: pytest.MonkeyPatch, cost: int | None, odd: bool
):
    """It is missing, or above the list price of the same images."""
    monkeypatch.setattr(stage, "PRICE", dataclasses.replace(PRICE, cost_reported=True))
    reports(monkeypatch, reported_cost_nano_usd=cost)
    record = await record_of(api)
    assert record.implausible is odd
    assert record.charge_nano_usd == (CHARGE_PER_IMAGE if odd else 13_000_000)
