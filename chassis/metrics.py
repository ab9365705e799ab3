"""The registry of a process's metrics: named `tollbridge_…` in the code, shown under the `metrics.prefix` of the file.

Every service reads that section at its start; a changed prefix holds from the next start. Metrics of the process itself
(memory, CPU, descriptors) keep the names that they have everywhere.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from prometheus_client import CollectorRegistry, Metric, ProcessCollector

from chassis.config import read, section

NAME = "tollbridge"


class MetricsSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`metrics`: what all names begin with."""

    prefix: Annotated[str, msgspec.Meta(pattern="^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)] = NAME


class _Sections(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    metrics: MetricsSection = MetricsSection()


class PrefixedRegistry(CollectorRegistry):
    """Renames what it has when it is asked."""

    def __init__(self, *, prefix: str = NAME) -> None:
        super().__init__()
        self._prefix = prefix
        ProcessCollector(registry=self)

    def collect(self) -> Iterator[Metric]:
        """All metrics, under the prefix."""
        for metric in super().collect():
            shown = copy.copy(metric)
            shown.name = self._shown(metric.name)
            shown.samples = [sample._replace(name=self._shown(sample.name)) for sample in metric.samples]
            yield shown

    def _shown(self, name: str) -> str:
        return self._prefix + name.removeprefix(NAME) if name.startswith(f"{NAME}_") else name


def open_registry(config_path: str) -> PrefixedRegistry:
    """A process's registry, under the prefix of its config file, if it has one. Raises ConfigError."""
    if not config_path:
        return PrefixedRegistry()
    return PrefixedRegistry(prefix=section(read(Path(config_path)), _Sections).metrics.prefix)
