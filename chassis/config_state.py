"""Which configuration a process runs, and the RPC `GetConfigState` that tells it, the same in every service."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import Message

from chassis.config import ConfigWatch
from chassis.rpc import CallContext, Handler

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigState:
    """Hash and time of what runs, and why the file as it is now doesn't; all empty without a file."""

    hash: str = ""
    loaded_at_us: int = 0
    error: str = ""

    @classmethod
    def of(cls, watch: ConfigWatch[T] | None) -> "ConfigState":
        """What this watch keeps; None is a process without a file."""
        if watch is None:
            return cls()
        return cls(hash=watch.hash, loaded_at_us=watch.loaded_at_us, error=watch.error)


def config_state_handler(
    response: Callable[..., Message], state: Callable[[], ConfigState], callers: frozenset[str]
) -> Handler:
    """Answers GetConfigState with `response`, the service's own message of the same three fields."""

    async def run(_request: Message, _: CallContext) -> Message:
        now = state()
        return response(hash=now.hash, loaded_at_us=now.loaded_at_us, error=now.error)

    return Handler(run=run, callers=callers)
