"""How a stream comes to be as its owner wants it: made when it is not there, widened when it is."""

from typing import TYPE_CHECKING

from nats.js import JetStreamContext, api
from nats.js.errors import NotFoundError

if TYPE_CHECKING:
    from chassis.bus import StreamSpec


async def make_stream(jetstream: JetStreamContext, spec: "StreamSpec") -> None:
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
            )
        )
        return
    # Subjects are only added and replicas left alone: newer code, or an operator, may have wanted them so.
    subjects = sorted({*(present.subjects or ()), *spec.subjects})
    changes = {"subjects": subjects, "max_age": spec.max_age_s, "max_bytes": spec.max_bytes}
    if sorted(present.subjects or ()) != subjects or (present.max_age, present.max_bytes) != (
        spec.max_age_s,
        spec.max_bytes,
    ):
        await jetstream.update_stream(present.evolve(**changes))
