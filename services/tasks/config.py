"""The parts of the config file that tasks owns: `results`, where they are kept, how long and how many; and `tasks`."""

import ipaddress
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from chassis.config import ConfigText, section
from upstream.public_address import Network

MAX_KEEP_HOURS = 24 * 366
MIN_KEEP_DAYS = 2
"""Longer than keys of idempotency are kept: who comes again under one is shown the task."""
MAX_KEEP_DAYS = 3650


class ResultsSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`results`: the object store, and what of it one customer may have. The fields after `store` are S3's.

    Without keys S3 takes those that boto3 finds by itself (a role, a profile).
    """

    store: Literal["nats", "s3"] = "nats"
    endpoint: str = ""
    bucket: str = ""
    region: str = ""
    access_key: str = ""
    secret_key: str = ""
    prefix: str = "results/"
    keep_hours: float = 168.0
    customer_max_mib: int = 4096
    customer_max_files: int = 10_000

    @property
    def keep_s(self) -> float:
        """How long a file is kept, in seconds."""
        return self.keep_hours * 3600

    @property
    def customer_max_bytes(self) -> int:
        """What the files of one customer may take."""
        return self.customer_max_mib << 20


class WebhooksSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`tasks.webhooks`. In `allowed_networks` customers' webhooks may go to private addresses, and by http."""

    allowed_networks: tuple[str, ...] = ()

    @property
    def networks(self) -> tuple[Network, ...]:
        """The same, read. Raises ValueError for what is no network."""
        return tuple(ipaddress.ip_network(each) for each in self.allowed_networks)


class TasksSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`tasks`: what becomes of long jobs. One is shown for `keep_days` from its end, and at least as long as files."""

    webhooks: WebhooksSection = WebhooksSection()
    keep_days: float = 30.0


class TasksConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The top-level keys that tasks reads."""

    results: ResultsSection = ResultsSection()
    tasks: TasksSection = TasksSection()

    @property
    def keep_tasks_s(self) -> float:
        """How long a task is kept from its end, in seconds."""
        return max(self.tasks.keep_days * 86_400, self.results.keep_s)


def parse(text: ConfigText, environ: Mapping[str, str] | None = None) -> TasksConfig:
    """Reads tasks' sections. Raises chassis.config.ConfigError with file, line and key."""
    found = section(text, TasksConfig, environ=environ)
    problem = _problem(found.results)
    if problem is not None:
        raise text.error(problem[1], ("results", problem[0]))
    if not MIN_KEEP_DAYS <= found.tasks.keep_days <= MAX_KEEP_DAYS:
        raise text.error(f"is {MIN_KEEP_DAYS} to {MAX_KEEP_DAYS} days", ("tasks", "keep_days"))
    try:
        len(found.tasks.webhooks.networks)
    except ValueError as error:
        raise text.error(str(error), ("tasks", "webhooks", "allowed_networks")) from None
    return found


def _problem(results: ResultsSection) -> tuple[str, str] | None:
    """A key that can't be, and why."""
    is_s3, scheme = results.store == "s3", urlsplit(results.endpoint).scheme
    rules = (
        (1 <= results.keep_hours <= MAX_KEEP_HOURS, "keep_hours", f"is 1 to {MAX_KEEP_HOURS} hours"),
        (results.customer_max_mib >= 1, "customer_max_mib", "is at least 1"),
        (results.customer_max_files >= 1, "customer_max_files", "is at least 1"),
        (bool(results.bucket) or not is_s3, "bucket", "is missing: S3 keeps files in one"),
        (bool(results.access_key) == bool(results.secret_key), "secret_key", "goes with access_key: both, or neither"),
        (not results.endpoint or scheme in ("http", "https"), "endpoint", "is no http or https URL"),
    )
    return next(((key, problem) for holds, key, problem in rules if not holds), None)
