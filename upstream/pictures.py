"""Pictures that are made here, not by a model: what a request may ask of one, and its encoding by Pillow.

The sandbox and the local renderer both draw with it. Everything is bounded before a pixel is made, and everything is
deterministic: the same wish is the same bytes. Drawing and encoding block for some tens of milliseconds a megapixel:
call them off the loop. Pillow is imported where something is drawn, so that a process which draws nothing stays light.
"""

import dataclasses
import hashlib
import io
import re
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL import Image

Format = Literal["png", "jpeg", "webp"]
FORMATS: tuple[Format, ...] = ("png", "jpeg", "webp")
MIN_EDGE_PX, MAX_EDGE_PX = 16, 4096
MAX_PIXELS = 3840 * 2160
"""The largest that any image model offers."""
DEFAULT_SIZE = (1024, 1024)
BACKGROUNDS = ("auto", "transparent", "opaque")
_SIZE = re.compile(r"([1-9][0-9]{1,3})x([1-9][0-9]{1,3})")
_PNG_EFFORT = 4
_WEBP_EFFORT = 2
_BLOCKS = 16


class WrongWish(ValueError):
    """What can't be drawn, and the field that asks for it."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(f"{param} {message}")
        self.param = param


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One picture: its size in pixels, its format, and how it is packed. `quality` is 0 to 100, for jpeg and webp."""

    size: tuple[int, int] = DEFAULT_SIZE
    format: Format = "png"
    quality: int = 100
    transparent: bool = False


def wish_of(
    *, size: str | None, output_format: str | None, output_compression: int | None, background: str | None
) -> Wish:
    """Reads the fields as OpenAI's clients send them. Raises WrongWish."""
    wanted = next((known for known in FORMATS if known == (output_format or "png")), None)
    if wanted is None:
        raise WrongWish("output_format", f"is one of {', '.join(FORMATS)}")
    if output_compression is not None and not 0 <= output_compression <= 100:
        raise WrongWish("output_compression", "is 0 to 100")
    if background not in (None, *BACKGROUNDS):
        raise WrongWish("background", f"is one of {', '.join(BACKGROUNDS)}")
    if background == "transparent" and wanted == "jpeg":
        raise WrongWish("background", "can't be transparent in a jpeg")
    return Wish(
        size=size_of(size),
        format=wanted,
        quality=100 if output_compression is None else output_compression,
        transparent=background == "transparent",
    )


def size_of(text: str | None, *, default: tuple[int, int] = DEFAULT_SIZE) -> tuple[int, int]:
    """Width and height of `1024x768`; nothing and `auto` are the default. Raises WrongWish."""
    if text in (None, "", "auto"):
        return default
    found = _SIZE.fullmatch(text or "")
    if found is None:
        raise WrongWish("size", "is WIDTHxHEIGHT in pixels, or auto")
    width, height = int(found[1]), int(found[2])
    if not all(MIN_EDGE_PX <= edge <= MAX_EDGE_PX for edge in (width, height)) or width * height > MAX_PIXELS:
        raise WrongWish("size", f"has edges of {MIN_EDGE_PX} to {MAX_EDGE_PX} pixels, and at most {MAX_PIXELS} of them")
    return width, height


def card(seed: str, size: tuple[int, int], *, shift: float = 0.0) -> "Image.Image":
    """Blocks between two colours of the seed's hash: plainly no model's work. `shift` 0 to 1 moves them, for videos."""
    from PIL import Image

    colours = hashlib.sha256(seed.encode("utf-8", "replace")).digest()
    small = Image.new("RGB", (_BLOCKS, _BLOCKS))
    for y in range(_BLOCKS):
        for x in range(_BLOCKS):
            share = ((x + y) * 255 // (2 * _BLOCKS - 2) + int(shift * 510)) % 510
            share = min(share, 510 - share)
            red, green, blue = ((colours[i] * (255 - share) + colours[i + 3] * share) // 255 for i in range(3))
            small.putpixel((x, y), (red, green, blue))
    return small.quantize(_BLOCKS * _BLOCKS).resize(size, Image.Resampling.NEAREST)  # a palette packs ten times faster


def packed(picture: "Image.Image", wish: Wish) -> bytes:
    """The file's bytes. What is to be transparent is its outer frame, a sixteenth of each edge."""
    if wish.transparent:
        picture = _framed(picture)
    elif wish.format != "png":
        picture = picture.convert("RGB")
    file = io.BytesIO()
    if wish.format == "png":
        picture.save(file, "PNG", compress_level=_PNG_EFFORT)
    elif wish.format == "jpeg":
        picture.save(file, "JPEG", quality=max(1, min(95, wish.quality)))
    else:
        picture.save(file, "WEBP", quality=wish.quality, method=_WEBP_EFFORT)
    return file.getvalue()


def _framed(picture: "Image.Image") -> "Image.Image":
    from PIL import Image

    width, height = picture.size
    frame = (width // 16, height // 16)
    mask = Image.new("L", picture.size, 0)
    mask.paste(255, (*frame, width - frame[0], height - frame[1]))
    whole = picture.convert("RGBA")
    whole.putalpha(mask)
    return whole
