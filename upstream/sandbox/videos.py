"""The sandbox's videos: a job that is submitted, asked after and fetched, as OpenAI has it, and has no state here.

All that there is to know of a job is in its id. It takes as long as its script's `chunks` × `gap_ms` say (by default it
is done at once), fails in the end with `fail_after_chunks` and is refused with `error_after_chunks`. What comes out is
a test card that moves: a real MP4 of the length and size asked for, a second at a time, so that long ones don't fill
the memory.
"""

import base64
import binascii
import hashlib
from typing import TYPE_CHECKING

import msgspec

from upstream.form import read_form
from upstream.pictures import WrongWish, card, size_of
from upstream.sandbox.av1 import encoded
from upstream.sandbox.mp4 import Film, mp4
from upstream.sandbox.script import Script, script_of

if TYPE_CHECKING:
    from PIL import Image

DEFAULT_SIZE = (720, 1280)
DEFAULT_SECONDS = "4"
MAX_SECONDS = 60
FRAMES_PER_S = 4
_PREFIX = "video_"
_MS = 1000


class VideoRequest(msgspec.Struct, frozen=True):
    """A video request, as far as the sandbox reads it."""

    model: str
    prompt: str
    seconds: str | int = DEFAULT_SECONDS
    size: str | None = None


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """A job, whole: what its id says. Times are milliseconds since the epoch."""

    model: str
    seed: str
    seconds: int
    width: int
    height: int
    begun_ms: int
    due_ms: int
    fails: str = ""
    """The code of its failure."""

    @property
    def id(self) -> str:
        """What asks after it."""
        return _PREFIX + base64.urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")


def read_request(body: bytes, content_type: str) -> tuple[VideoRequest, Script]:
    """A JSON body or a form. Raises FormProblem, msgspec.MsgspecError."""
    if content_type.startswith("multipart/"):
        request = msgspec.convert(dict(read_form(body, content_type).fields), VideoRequest)
    else:
        request = msgspec.json.decode(body, type=VideoRequest)
    return request, script_of(request.prompt)


def ticket(request: VideoRequest, script: Script, *, now_s: float) -> Ticket:
    """The job that a request begins. Raises WrongWish."""
    seconds = str(request.seconds)
    if not (seconds.isascii() and seconds.isdigit() and len(seconds) <= 3 and 1 <= int(seconds) <= MAX_SECONDS):
        raise WrongWish("seconds", f"is 1 to {MAX_SECONDS}")
    width, height = size_of(request.size, default=DEFAULT_SIZE)
    if width % 2 or height % 2:
        raise WrongWish("size", "has even edges")
    now_ms = int(now_s * _MS)
    return Ticket(
        model=request.model,
        seed=hashlib.sha256(request.prompt.encode("utf-8", "replace")).hexdigest()[:16],
        seconds=int(seconds),
        width=width,
        height=height,
        begun_ms=now_ms,
        due_ms=now_ms + (script.chunks or 0) * script.gap_ms,
        fails=_failure(script),
    )


def ticket_of(video_id: str) -> Ticket | None:
    """The job with that id; None for what is no id."""
    encoded = video_id.removeprefix(_PREFIX)
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)), type=Ticket)
    except (binascii.Error, msgspec.MsgspecError, ValueError):
        return None


def shown(job: Ticket, *, now_s: float) -> bytes:
    """OpenAI's video object, as the job is now."""
    now_ms = now_s * _MS
    is_over = now_ms >= job.due_ms
    share = 1.0 if is_over else (now_ms - job.begun_ms) / (job.due_ms - job.begun_ms)
    status = ("failed" if job.fails else "completed") if is_over else "in_progress"
    return msgspec.json.encode(
        {
            "id": job.id,
            "object": "video",
            "model": job.model,
            "status": status,
            "progress": max(0, min(100, int(share * 100))),
            "created_at": job.begun_ms // _MS,
            "seconds": str(job.seconds),
            "size": f"{job.width}x{job.height}",
            "error": {"code": job.fails, "message": "the sandbox was told to fail"} if status == "failed" else None,
        }
    )


def _failure(script: Script) -> str:
    """As a provider fails that might do better elsewhere, or as one that refuses what is asked for."""
    if script.error_after_chunks is not None:
        return "moderation_blocked"
    return "scripted" if script.fail_after_chunks is not None else ""


def clip(job: Ticket) -> bytes:
    """The MP4 (AV1, without sound); blocks for some tenths of a second for each second of video."""
    size, count = (job.width, job.height), job.seconds * FRAMES_PER_S
    frames: list[bytes] = []
    keys, entry = range(0, count, FRAMES_PER_S), b""
    for start in keys:
        second = encoded([_picture(job, number / count, size) for number in range(start, start + FRAMES_PER_S)])
        frames += second.frames
        entry = second.entry
    return mp4(Film(entry=entry, brand=b"av01", frames=frames, keys=keys, size=size, frames_per_s=FRAMES_PER_S))


def _picture(job: Ticket, shift: float, size: tuple[int, int]) -> "Image.Image":
    from PIL import Image

    return card(job.seed, (16, 16), shift=shift).convert("RGB").resize(size, Image.Resampling.NEAREST)
