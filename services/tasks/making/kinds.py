"""The table of the kinds of jobs that there are. README.md, "Adding a kind", says what a new line needs."""

from collections.abc import Mapping

from chassis.errors import Code, TollbridgeError
from services.tasks.making import image_order, makers, speech_order, video_order
from services.tasks.making.kind import AnyKind, Kind

IMAGE = Kind(
    name="image",
    parse=image_order.parse,
    makers=makers.images(),
    time_to_live_s=900.0,
    look=lambda wanted: (wanted.size, wanted.quality),
)
SPEECH = Kind(name="speech", parse=speech_order.parse, makers=makers.speeches(), time_to_live_s=1800.0)
VIDEO = Kind(
    name="video",
    parse=video_order.parse,
    makers=makers.videos(),
    time_to_live_s=1800.0,
    look=lambda wanted: (wanted.size, None),
    shown=video_order.VideoOrder.shown,
)

KINDS: Mapping[str, AnyKind] = {kind.name: kind for kind in (IMAGE, SPEECH, VIDEO)}


def kind_of(name: str) -> AnyKind:
    """The kind of that name. Raises INVALID_REQUEST."""
    found = KINDS.get(name)
    if found is None:
        known = ", ".join(KINDS)
        raise TollbridgeError(Code.INVALID_REQUEST, f"kind is one of {known}.", details={"param": "kind"})
    return found
