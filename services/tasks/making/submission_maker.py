"""Whatever providers make as jobs of their own: submitted once, asked after with growing pauses, and fetched.

A few failures in a row are borne while it runs there; more give our job back, which goes on with the same provider's
job later. That the provider doesn't know its job any more ends it.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Generic

from pricing.tokens import Units
from services.tasks.files.file_types import content_type
from services.tasks.files.results import MAX_FILE_BYTES
from services.tasks.making.kind import File, Making, Product, ResultTooLarge, W
from services.tasks.work.unbroken import unbroken
from upstream import links
from upstream.client import HttpCall
from upstream.outcome import AnswerTooLarge, AttemptFailed, JobFailed, Outcome
from upstream.submission import MAX_STATE_BYTES, JobReport, JobState, JobWire

FIRST_PAUSE_S = 0.25
MAX_PAUSE_S = 5.0
MAX_MISSES = 5
SUBMIT_S = 10.0
"""How long a worker that is told to leave a job waits for the id of what it is just submitting."""
_GONE = frozenset({404, 410})
_OVER = frozenset({400, 404, 405, 409, 410, 422})
"""What a provider answers when there is nothing to stop any more."""


class SubmissionMaker(Generic[W]):
    """Makes over one `wire`: submits `fields`, and counts by `units` what its report and its files say was made.

    Of the files `most_files` are kept and count.
    """

    def __init__(
        self,
        *,
        wire: JobWire,
        fields: Callable[[W], Mapping[str, object]],
        units: Callable[[W, JobReport, int], Units],
        most_files: Callable[[W], int],
    ) -> None:
        self._wire, self._fields, self._units, self._most_files = wire, fields, units, most_files

    async def make(self, making: Making[W]) -> Product:
        """Submits, unless that was done before. Raises AttemptFailed, JobFailed, ResultTooLarge."""
        job_id = making.submitted_id or await unbroken(self._begun(making), within_s=SUBMIT_S)
        report = await self._finished(making, job_id)
        if report.state is JobState.FAILED:
            outcome = Outcome.REJECTED if report.is_rejected else Outcome.SERVER_ERROR
            raise JobFailed(outcome, report.problem or "the provider's job failed", excerpt=report.problem)
        try:
            files = await self._files(making, job_id, report)
        except AnswerTooLarge as error:
            made = min(max(1, len(report.links)), self._most_files(making.wanted))
            units = self._units(making.wanted, report, made)
            raise ResultTooLarge(Product(files=(), units=units, captured=report.captured)) from error
        units = self._units(making.wanted, report, len(files))
        return Product(files=files, units=units, captured=report.captured)

    async def cancel(self, making: Making[W]) -> None:
        """Stops the provider's job. Raises AttemptFailed."""
        try:
            response = await making.send(self._wire.cancel(making.submitted_id, making.route))
        except AttemptFailed as failure:
            if failure.status not in _OVER:
                raise
            return
        response.close()

    async def _begun(self, making: Making[W]) -> str:
        """Submits, and returns the provider's id of the job once it is saved."""
        call = self._wire.submit(self._fields(making.wanted), making.route, request_id=making.task_id)
        begun = await self._asked(making, call)
        await making.submitted(begun.id)
        return begun.id

    async def _finished(self, making: Making[W], job_id: str) -> JobReport:
        pause_s, misses = FIRST_PAUSE_S, 0
        while True:  # the job's own time to live bounds it
            try:
                report = await self._asked(making, self._wire.poll(job_id, making.route))
            except AttemptFailed as failure:
                misses += 1
                if failure.status in _GONE:
                    raise JobFailed(failure.outcome, "the provider does not know its job any more") from failure
                if misses >= MAX_MISSES:
                    raise
            else:
                misses = 0
                if report.state is not JobState.RUNNING:
                    return report
                making.progress(report.progress)
            await asyncio.sleep(pause_s)
            pause_s = min(MAX_PAUSE_S, 1.5 * pause_s)

    async def _asked(self, making: Making[W], call: HttpCall) -> JobReport:
        response = await making.send(call)
        try:
            return self._wire.read(await response.read(MAX_STATE_BYTES))
        finally:
            response.close()

    async def _files(self, making: Making[W], job_id: str, report: JobReport) -> tuple[File, ...]:
        content = self._wire.content(job_id, making.route)
        if content is None:
            client, chosen = making.providers.client, report.links[: self._most_files(making.wanted)]
            found = [await links.fetch(link, making.route, client=client, max_bytes=MAX_FILE_BYTES) for link in chosen]
            return tuple(File(data=data, content_type=content_type(data)) for data in found)
        response = await making.send(content)
        try:
            data = await response.read(MAX_FILE_BYTES)
        finally:
            response.close()
        return (File(data=data, content_type=content_type(data)),)
