"""The part of the config file that tasks owns: `results`, where results are kept."""

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


class TasksConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The top-level keys that tasks reads."""

    results: ResultsSection = ResultsSection()


def parse(text: ConfigText, environ: Mapping[str, str] | None = None) -> TasksConfig:
    """Reads tasks' sections. Raises chassis.config.ConfigError with file, line and key."""
    found = section(text, TasksConfig, environ=environ)
    if found.results.store != "nats":
        raise text.error("the S3 store is not built yet: use nats", ("results", "store"))
    return found
