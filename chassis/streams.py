"""How a stream comes to be as its owner wants it: made when it is not there, widened when it is."""

from typing import TYPE_CHECKING

from nats.js import JetStreamContext, api
from nats.js.errors import NotFoundError
from nats.js.object_store import ObjectStore

if TYPE_CHECKING:
    from chassis.bus import StreamSpec


async def make_stream(jetstream: JetStreamContext, spec: "StreamSpec", replicas: int) -> None:
    """Makes or changes the stream; raises what nats-py raises."""
    try:
        present = (await jetstream.stream_info(spec.name)).config
    except NotFoundError:
        await jetstream.add_stream(
            api.StreamConfig(
                name=spec.name,
                subjects=list(spec.subjects),
                retention=api.RetentionPolicy(spec.retention),
                storage=api.StorageType.FILE,
                discard=api.DiscardPolicy.NEW,
                max_age=spec.max_age_s,
                max_bytes=spec.max_bytes,
                num_replicas=replicas,
            )
        )
        return
    # Subjects and replicas are only added: newer code, or an operator, may have wanted more.
    wanted = present.evolve(
        subjects=sorted({*(present.subjects or ()), *spec.subjects}),
        max_age=spec.max_age_s,
        max_bytes=spec.max_bytes,
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
