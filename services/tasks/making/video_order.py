"""A video request's body: what of it matters to tasks, and the most that it can use. Pure."""

import dataclasses
from typing import Any

from pricing.tokens import Units
from services.tasks.making.order_body import invalid, read, refuse_unpriced
from upstream.openai.video_fields import VideoFields

_MS = 1000
_OURS = frozenset({"model", "webhook_url"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VideoOrder:
    """How long a video of what, and the fields for the provider."""

    prompt: str
    seconds: int
    size: str
    fields: dict[str, Any]
    quality: str | None = None

    @property
    def most(self) -> Units:
        """One request for so many seconds."""
        return Units(requests=1, milliseconds=self.seconds * _MS)

    def output_tokens(self, max_output: int) -> int:
        """One video is one answer."""
        return max_output

    def shown(self) -> dict[str, object]:
        """What its customer is shown of it, in OpenAI's words."""
        return {"prompt": self.prompt, "seconds": str(self.seconds), "size": self.size}


def parse(body: bytes) -> VideoOrder:
    """Reads the JSON body. Raises INVALID_REQUEST with `param`."""
    video, fields = read(body, VideoFields)
    problem = video.problem()
    if problem is not None:
        raise invalid(problem[0], f"is wrong: {problem[1]}")
    refuse_unpriced(fields)
    if fields.get("n") not in (None, 1) or fields.get("n") is True:
        raise invalid("n", "is not priced: a video is made alone")
    sent = {name: value for name, value in fields.items() if name not in _OURS and value is not None}
    sent |= {"seconds": str(video.length_s), "size": video.picture_size}  # what is paid for is said, not guessed
    return VideoOrder(prompt=video.prompt, seconds=video.length_s, size=video.picture_size, fields=sent)
