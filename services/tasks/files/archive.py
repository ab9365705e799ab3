"""Where results are, by the config file: one store for the process's life, with rules that may change meanwhile."""

from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from services.tasks.config import ResultsSection
from services.tasks.files.results import Results
from services.tasks.files.results_store import NatsResults
from services.tasks.files.s3_store import S3Results


class Archive:
    """The results of all jobs. `rules` says how long files are kept and how many; `bucket` makes the store on NATS."""

    def __init__(self, *, bucket: Callable[[], NatsResults], log: FilteringBoundLogger) -> None:
        self._bucket = bucket
        self._log = log
        self._store: Results | None = None
        self.rules = ResultsSection()

    def use(self, section: ResultsSection) -> None:
        """Follows the file. Another store than the first is taken at the next start: files would be in two places."""
        if self._store is not None and _place(section) != _place(self.rules):
            self._log.warning("results_store_changes_at_restart", store=section.store)
        self.rules = section

    async def put(self, file_id: str, data: bytes) -> None:
        """Keeps a file; the same id again replaces it. Raises UNAVAILABLE."""
        await self._here().put(file_id, data)

    async def read(self, file_id: str, *, start: int, length: int) -> bytes:
        """A part of a file. Raises NOT_FOUND or UNAVAILABLE."""
        return await self._here().read(file_id, start=start, length=length)

    async def delete(self, file_id: str) -> None:
        """Removes a file; that there is none is no failure. Raises UNAVAILABLE."""
        await self._here().delete(file_id)

    async def close(self) -> None:
        """Ends the connections."""
        if self._store is not None:
            await self._store.close()

    def _here(self) -> Results:
        if self._store is None:
            self._store = S3Results(self.rules) if self.rules.store == "s3" else self._bucket()
        return self._store


def _place(section: ResultsSection) -> tuple[str, ...]:
    return section.store, section.endpoint, section.bucket, section.prefix
