"""The users of NATS, one for each service, made of what its `events.py` says that it does: `deploy/nats/users.conf`.

A user publishes and hears its own service's subjects, makes its streams, works on its durables and buckets, and gets
answers in an inbox that no other user may read (`chassis/bus_link.py`). Who may make a stream or a durable of a name
may also change it. Passwords come from the server's environment; they begin with a letter, since NATS would read some
others as numbers. `python -m cli.bus_users` prints the file.
"""

import importlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType

from chassis.bus import ConsumerSpec
from chassis.streams import StreamSpec

ON_THE_BUS = ("auth", "billing", "edge", "tasks")
API = "$JS.API"
HEAD = """# Made by `python -m cli.bus_users` of what services/*/events.py say: change those.
# `proof` is for `tollbridge ledger prove` and `replay`, `operator` for people.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """One user and what it may do; what is denied is denied though it is allowed."""

    name: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    deny: tuple[str, ...] = ()

    @property
    def variable(self) -> str:
        """Where the server finds the password."""
        return f"TOLLBRIDGE_NATS_{self.name.upper()}_PASSWORD"


def users() -> list[User]:
    """All of them."""
    services = [_user(name, importlib.import_module(f"services.{name}.events")) for name in ON_THE_BUS]
    return [*services, _proof(), User(name="operator", publish=(">",), subscribe=(">",))]


def config(found: Iterable[User]) -> str:
    """As NATS reads it."""
    return f"{HEAD}users: [\n{''.join(map(_entry, found))}]\n"


def _user(name: str, events: ModuleType) -> User:
    allowed = [*events.PUBLISHES]
    for stream in getattr(events, "STREAMS", ()):
        allowed += _making(stream)
    for consumer in getattr(events, "CONSUMES", ()):
        allowed += _consuming(consumer)
    for bucket in getattr(events, "BUCKETS", ()):
        allowed += _keeping(bucket)
    heard = getattr(events, "LISTENS", ())
    return User(name=name, publish=tuple(allowed), subscribe=(f"_INBOX.{name}.>", *heard))


def _making(stream: StreamSpec) -> list[str]:
    return [f"{API}.STREAM.{verb}.{stream.name}" for verb in ("INFO", "CREATE", "UPDATE")]


def _consuming(consumer: ConsumerSpec) -> list[str]:
    durable = f"{consumer.stream}.{consumer.durable}"
    verbs = ("DURABLE.CREATE", "INFO", "MSG.NEXT")
    return [*(f"{API}.CONSUMER.{verb}.{durable}" for verb in verbs), f"$JS.ACK.{durable}.>"]


def _keeping(bucket: str) -> list[str]:
    """Objects are read through consumers that live as long as the reading, found by their subject."""
    stream = f"OBJ_{bucket}"
    verbs = ("INFO", "CREATE", "UPDATE", "PURGE", "MSG.GET")
    return [
        f"$O.{bucket}.>",
        *(f"{API}.STREAM.{verb}.{stream}" for verb in verbs),
        f"{API}.STREAM.NAMES",
        f"{API}.DIRECT.GET.{stream}",
        f"{API}.DIRECT.GET.{stream}.>",
        f"{API}.CONSUMER.CREATE.{stream}",
        f"{API}.CONSUMER.CREATE.{stream}.>",
        f"{API}.CONSUMER.INFO.{stream}.*",
        f"{API}.CONSUMER.DELETE.{stream}.*",
        f"$JS.FC.{stream}.>",
    ]


def _proof() -> User:
    """Reads the streams of the ledger without taking what billing is to be given."""
    from services.billing.events import APPLY_USAGE, LEDGER, USAGE

    allowed = [
        f"{API}.{verb}"
        for stream in (LEDGER.name, USAGE.name)
        for verb in (
            f"STREAM.INFO.{stream}",
            f"CONSUMER.INFO.{stream}.*",
            f"CONSUMER.CREATE.{stream}.>",
            f"CONSUMER.MSG.NEXT.{stream}.*",
        )
    ]
    durable = f"{APPLY_USAGE.stream}.{APPLY_USAGE.durable}"
    denied = [f"{API}.CONSUMER.{what}" for what in (f"MSG.NEXT.{durable}", f"CREATE.{durable}", f"CREATE.{durable}.>")]
    return User(name="proof", publish=tuple(allowed), subscribe=("_INBOX.proof.>",), deny=tuple(denied))


def _entry(user: User) -> str:
    denied = f"      deny: [\n{_listed(user.deny)}      ]\n" if user.deny else ""
    return f"""  {{
    user: {user.name}, password: ${user.variable}
    permissions: {{
      publish: {{ allow: [
{_listed(user.publish)}      ]
{denied}      }}
      subscribe: {{ allow: [
{_listed(user.subscribe)}      ] }}
    }}
  }}
"""


def _listed(subjects: Iterable[str]) -> str:
    return "".join(f"        {json.dumps(subject)}\n" for subject in subjects)


if __name__ == "__main__":
    print(config(users()), end="")
