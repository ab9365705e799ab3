"""How a stream comes to be as its owner wants it: made when it is not there, widened when it is, never narrowed.

A full stream must not stop who publishes. One that is kept for readers (`limits`) drops its oldest; a work queue has
only what nobody has done yet, and refuses what is new.
"""

from dataclasses import dataclass
from typing import Literal

from nats.js import JetStreamContext, api
from nats.js.errors import NotFoundError
from nats.js.object_store import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """A stream as its owner wants it. Full, one of `limits` drops its oldest: who publishes there must itself keep what
    must not be lost until it was read; a `workqueue` refuses what is new.
    """

    name: str
    subjects: tuple[str, ...]
    retention: Literal["limits", "workqueue"]
    max_age_s: int
    max_bytes: int


async def make_stream(jetstream: JetStreamContext, spec: StreamSpec, replicas: int) -> None:
    """Makes or changes the stream; raises what nats-py raises."""
    made = api.StreamConfig(
        name=spec.name,
        subjects=list(spec.subjects),
        retention=api.RetentionPolicy(spec.retention),
        storage=api.StorageType.FILE,
        discard=api.DiscardPolicy.OLD if spec.retention == "limits" else api.DiscardPolicy.NEW,
        max_age=spec.max_age_s,
        max_bytes=spec.max_bytes,
        num_replicas=replicas,
    )
    try:
        present = (await jetstream.stream_info(spec.name)).config
    except NotFoundError:
        present = (await jetstream.add_stream(made)).config
    # All is only added to: newer code, or an operator, may have wanted more, and what is narrowed drops what it has.
    # An age of 0 and -1 bytes are without a bound.
    wanted = present.evolve(
        subjects=sorted({*(present.subjects or ()), *spec.subjects}),
        discard=made.discard,
        max_age=present.max_age and max(present.max_age, spec.max_age_s),
        max_bytes=-1 if present.max_bytes == -1 else max(present.max_bytes or 0, spec.max_bytes),
        num_replicas=max(replicas, present.num_replicas or 1),
    )
    if wanted != present.evolve(subjects=sorted(present.subjects or ())):
        await jetstream.update_stream(wanted)


async def open_bucket(jetstream: JetStreamContext, name: str, max_age_s: float | None, replicas: int) -> ObjectStore:
    """The bucket, made when it is not there, and kept on so many servers at least; raises what nats-py raises."""
    try:
        bucket = await jetstream.object_store(name)
    except NotFoundError:
        return await jetstream.create_object_store(name, ttl=max_age_s, replicas=replicas)
    present = (await bucket.status()).stream_info.config
    if (present.num_replicas or 1) < replicas:
        await jetstream.update_stream(present.evolve(num_replicas=replicas))
    return bucket
