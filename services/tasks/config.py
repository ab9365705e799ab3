"""The parts of the config file that tasks owns: `results` (where results are kept) and `public_url`."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import msgspec

from chassis.config import ConfigText, section


class ResultsSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`results`: the object store. What is beside `store` is S3's."""

    store: Literal["nats", "s3"] = "nats"
    endpoint: str = ""
    bucket: str = ""
    region: str = ""
    access_key: str = ""
    secret_key: str = ""


class _Owned(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    results: ResultsSection = ResultsSection()
    public_url: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TasksConfig:
    """What the file says, checked. `public_url` is without a trailing slash; empty when the file doesn't say."""

    results_store: str = "nats"
    public_url: str = ""


def parse(text: ConfigText, environ: Mapping[str, str] | None = None) -> TasksConfig:
    """Reads tasks' sections. Raises chassis.config.ConfigError with file, line and key."""
    owned = section(text, _Owned, environ=environ)
    if owned.results.store != "nats":
        raise text.error("the S3 store is not built yet: use nats", ("results", "store"))
    return TasksConfig(results_store=owned.results.store, public_url=owned.public_url.rstrip("/"))
