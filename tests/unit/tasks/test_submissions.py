"""Jobs that a provider works on for itself: submitted once, asked for by whoever has them, stopped when unwanted."""

import asyncio
import dataclasses
from collections.abc import Callable

import pytest

from chassis.errors import Code
from pricing.tokens import Units
from services.tasks import jobs
from services.tasks.jobs import Job, Submission
from services.tasks.making import kinds
from services.tasks.making.image_order import ImageOrder
from services.tasks.making.kind import File, Kind, Making, Product
from tests.unit.tasks.stage import CHARGE_PER_IMAGE, TasksApi, TasksProcess, usage_of
from tollbridge.tasks.v1 import tasks_pb2 as pb
from tollbridge.usage.v1 import usage_pb2
from upstream.client import HttpCall, Timeouts, UpstreamResponse
from upstream.outcome import AttemptFailed, JobFailed, Outcome
from upstream.route import WireProtocol
from upstream.sandbox.provider import Sandbox


@dataclasses.dataclass
class FarProvider:
    """A provider that works on jobs of its own, each at one account; and the maker that speaks to it."""

    jobs: dict[str, str] = dataclasses.field(default_factory=dict)
    """The account of each job."""
    cancelled: list[str] = dataclasses.field(default_factory=list)
    is_ready: bool = False
    is_away: bool = False
    fails: set[str] = dataclasses.field(default_factory=set)
    progress: float = 0.0
    polled: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    async def make(self, making: Making[ImageOrder]) -> Product:
        known = making.submitted_id
        if not known:
            known = f"far-{len(self.jobs)}"
            self.jobs[known] = making.route.provider_account_id
            await making.submitted(known)
        while not self._is_done(known, making):
            making.progress(self.progress)
            self.polled.set()
            await asyncio.sleep(0.01)
        return Product(files=(File(data=known.encode(), content_type="image/png"),), units=Units(requests=1, images=1))

    def _is_done(self, known: str, making: Making[ImageOrder]) -> bool:
        if self.is_away:
            raise AttemptFailed(Outcome.UNREACHABLE, "no connection to the provider")
        if self.jobs.get(known) != making.route.provider_account_id or known in self.fails:
            raise JobFailed(Outcome.SERVER_ERROR, "the provider's job has failed")
        return self.is_ready

    async def cancel(self, making: Making[ImageOrder]) -> None:
        if self.is_away:
            raise AttemptFailed(Outcome.UNREACHABLE, "no connection to the provider")
        self.cancelled.append(making.submitted_id)


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> FarProvider:
    provider = FarProvider()
    kind = Kind(
        name="image",
        parse=kinds.IMAGE.parse,
        makers={WireProtocol.SANDBOX: provider},
        time_to_live_s=900.0,
    )
    monkeypatch.setitem(kinds.KINDS, "image", kind)  # type: ignore[arg-type]  # a dict, to whoever may change it
    return provider


async def started(api: TasksApi, far: FarProvider, process: TasksProcess | None = None) -> "asyncio.Task[float | None]":
    """A worker has it and asks its provider."""
    far.polled.clear()
    running = asyncio.create_task((process or api.process).run())
    await asyncio.wait_for(far.polled.wait(), 20)
    return running


async def charged_once(api: TasksApi, task_id: str) -> None:
    done = await api.get(task_id)
    assert (done.status, done.charge_nano_usd) == (pb.TASK_STATUS_SUCCEEDED, CHARGE_PER_IMAGE)
    (record,) = usage_of(await api.process.publish())
    assert (record.kind, record.charge_nano_usd) == (usage_pb2.USAGE_KIND_CHARGE, CHARGE_PER_IMAGE)
    assert record.generation_id == done.provider_task_id


async def test_the_providers_id_is_saved_before_it_is_first_asked(api: TasksApi, far: FarProvider):
    """And told to the customer; progress too."""
    task = await api.create()
    far.progress = 0.4
    running = await started(api, far)
    for _ in range(1000):
        if (seen := await api.get(task.id)).progress == 0.4:
            break
        await asyncio.sleep(0.02)
    assert seen.provider_task_id == "far-0"
    assert seen.version > task.version
    far.is_ready = True
    assert await running is None
    await charged_once(api, task.id)


@pytest.mark.usefixtures("quick_lease")
async def test_the_job_of_a_killed_worker_is_asked_for_and_not_submitted_again(
    api: TasksApi, far: FarProvider, new_process: Callable[[], TasksProcess]
):
    """At the account that knows it, whichever one router would choose."""
    task = await api.create()
    dead = await api.process.claimed()
    assert dead is not None
    far.jobs["far-0"] = "sandbox-7"
    await noted(api.process, dead, Submission(provider_account_id="sandbox-7", provider_task_id="far-0"))
    other = new_process()
    for _ in range(1000):
        if await other.sweeper.sweep():
            break
        await asyncio.sleep(0.02)
    far.is_ready = True
    assert await other.run() is None
    assert far.jobs == {"far-0": "sandbox-7"}
    assert other.router.decided[-1].provider_account_id == "sandbox-7"
    await charged_once(api, task.id)
    assert await api.process.ends.fail(dead, code=Code.INTERNAL, message="too late") is None


async def noted(process: TasksProcess, job: Job, submission: Submission) -> None:
    await process.worker._note_submission(job, submission)


async def test_a_provider_that_can_not_be_asked_for_a_while_keeps_the_job(api: TasksApi, far: FarProvider):
    """It is given back with a pause, no other account is tried, and then it is asked for again."""
    task = await api.create()
    running = await started(api, far)
    far.is_away = True
    assert await running is not None
    assert (await api.get(task.id)).status == pb.TASK_STATUS_PENDING
    far.is_away, far.is_ready = False, True
    assert await api.process.run() is None
    assert len(far.jobs) == 1
    await charged_once(api, task.id)


async def test_a_job_that_fails_at_its_provider_is_tried_at_the_next_account(api: TasksApi, far: FarProvider):
    """Nothing goes on at the first, so it may be submitted anew."""
    far.fails = {"far-0"}
    far.is_ready = True
    task = await api.create()
    assert await api.process.run() is None
    assert far.jobs == {"far-0": "sandbox-0", "far-1": "sandbox-1"}
    await charged_once(api, task.id)


async def test_a_job_that_fails_everywhere_fails_and_costs_nothing(
    api: TasksApi, far: FarProvider, monkeypatch: pytest.MonkeyPatch
):
    """After a bounded number of claims."""
    monkeypatch.setattr(jobs, "MAX_STRIKES", 1)
    far.fails = {f"far-{number}" for number in range(10)}
    task = await api.create()
    assert await api.process.run() is None
    assert (await api.get(task.id)).status == pb.TASK_STATUS_FAILED
    (record,) = usage_of(await api.process.publish())
    assert (record.kind, record.charge_nano_usd, record.closes_hold) == (usage_pb2.USAGE_KIND_VOID, 0, True)
    assert await api.process.stopper.look() == 0, "nothing runs there any more"


@pytest.mark.parametrize("worker_is_dead", [False, True])
async def test_a_cancelled_job_is_stopped_at_its_provider(api: TasksApi, far: FarProvider, worker_is_dead: bool):
    """At once, by whichever worker looks; a provider that is away is told later."""
    task = await api.create()
    running = await started(api, far)
    if worker_is_dead:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    far.is_away = worker_is_dead
    request = pb.CancelTaskRequest(task_id=task.id, customer_id=api.customer_id)
    await api.call("CancelTask", request, pb.CancelTaskResponse)
    if not worker_is_dead:
        api.process.worker.stop(task.id)  # as the news of its end does
        assert await asyncio.wait_for(running, 20) is None
    assert await api.process.stopper.look() == 1
    if worker_is_dead:
        far.is_away = False
        await api.process.sql("UPDATE tasks.tasks SET stop_at_us = 1 WHERE stop_at_us > 0")
        assert await api.process.stopper.look() == 1
    assert far.cancelled == ["far-0"]
    assert await api.process.stopper.look() == 0
    (record,) = usage_of(await api.process.publish())
    assert (record.kind, record.charge_nano_usd) == (usage_pb2.USAGE_KIND_VOID, 0)


async def test_a_job_that_its_provider_finishes_too_late_is_free_and_stopped(
    api: TasksApi, far: FarProvider, monkeypatch: pytest.MonkeyPatch
):
    """Its time is its kind's; what the provider still brings is nobody's charge."""
    short = dataclasses.replace(kinds.KINDS["image"], time_to_live_s=0.5)
    monkeypatch.setitem(kinds.KINDS, "image", short)  # type: ignore[arg-type]  # a dict, to whoever may change it
    task = await api.create()
    assert await api.process.run() is None
    far.is_ready = True
    done = await api.get(task.id)
    assert (done.status, done.error_code) == (pb.TASK_STATUS_FAILED, Code.DEADLINE_EXCEEDED.value)
    assert await api.process.stopper.look() == 1
    assert far.cancelled == ["far-0"]
    assert [record.kind for record in usage_of(await api.process.publish())] == [usage_pb2.USAGE_KIND_VOID]


async def test_a_job_cancelled_while_it_is_submitted_is_stopped_too(api: TasksApi, far: FarProvider):
    """Its id could not be saved any more, so whoever submitted it stops it."""
    task = await api.create()
    job = await api.process.claimed()
    assert job is not None
    request = pb.CancelTaskRequest(task_id=task.id, customer_id=api.customer_id)
    await api.call("CancelTask", request, pb.CancelTaskResponse)
    assert await api.process.worker.run(job) is None
    assert far.cancelled == ["far-0"]


async def test_what_is_stopped_by_its_submitter_is_stopped_whatever_news_comes_meanwhile(
    api: TasksApi, far: FarProvider, monkeypatch: pytest.MonkeyPatch
):
    """The news of its end, which comes at that very time, does not break off the telling of the provider."""
    begun, goes_on = asyncio.Event(), asyncio.Event()
    cancel = far.cancel

    async def slow_cancel(making: Making[ImageOrder]) -> None:
        begun.set()
        await goes_on.wait()
        await cancel(making)

    monkeypatch.setattr(far, "cancel", slow_cancel)
    task = await api.create()
    job = await api.process.claimed()
    assert job is not None
    await api.process.ends.cancel(task.id)
    running = asyncio.create_task(api.process.worker.run(job))
    await asyncio.wait_for(begun.wait(), 20)
    api.process.worker.stop(task.id)
    await asyncio.sleep(0)
    goes_on.set()
    assert await asyncio.wait_for(running, 20) is None
    assert far.cancelled == ["far-0"]


@pytest.mark.usefixtures("quick_lease")
async def test_a_provider_can_tell_the_order_of_a_dead_worker_from_a_new_one(
    api: TasksApi, monkeypatch: pytest.MonkeyPatch
):
    """The key is the same when nobody has heard the answer, and another once an attempt has failed."""
    keys: list[str] = []
    send = Sandbox.send

    async def noted_send(self: Sandbox, call: HttpCall, *, timeouts: Timeouts) -> UpstreamResponse:
        keys.append(call.headers["idempotency-key"])
        return await send(self, call, timeouts=timeouts)

    monkeypatch.setattr(Sandbox, "send", noted_send)
    monkeypatch.setattr("services.tasks.work.workshop.MAX_ATTEMPTS", 1)
    await api.create(prompt='x\n#sandbox {"status": 500}')
    assert await api.process.claimed() is not None, "and its worker dies"
    for _ in range(1000):
        if await api.process.sweeper.sweep():
            break
        await asyncio.sleep(0.02)
    assert await api.process.run() is not None
    assert await api.process.run() is not None
    assert keys[0].endswith("-0")
    assert keys[1].endswith("-1")
