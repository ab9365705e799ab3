"""Landscapes by arithmetic: a renderer, no model. It understands nothing but a few words of the prompt.

Known words choose the hour, the weather and the ground (`dusk`, `sea`, `snow` …); all other words only decide how the
hills lie and where the sun stands. The same prompt is the same picture. It exists so that everything around images can
be tried on one machine without a key, and its display name says what it is.
"""

import base64
import math
import random
import re
from typing import TYPE_CHECKING

import msgspec

from upstream.local.failure import Refused
from upstream.local.installed import IMAGE
from upstream.pictures import Wish, WrongWish, packed, wish_of

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

MAX_IMAGES = 4
MAX_PROMPT_CHARACTERS = 32_000
WAITING = 16
_LAYERS = 5
_STEP_PX = 4
_SKIES: dict[str, tuple[Colour, Colour, Colour]] = {
    "day": ((58, 123, 190), (196, 222, 238), (255, 244, 214)),
    "dawn": ((86, 98, 150), (247, 190, 158), (255, 226, 190)),
    "dusk": ((48, 36, 84), (238, 122, 82), (255, 196, 120)),
    "night": ((8, 12, 32), (34, 46, 86), (236, 238, 246)),
    "storm": ((54, 60, 70), (134, 142, 150), (190, 196, 204)),
}
"""Above, at the horizon, and of the sun or moon."""
_GROUNDS: dict[str, Colour] = {
    "hills": (58, 104, 62),
    "forest": (26, 72, 46),
    "desert": (196, 148, 86),
    "snow": (222, 230, 240),
    "rock": (96, 92, 98),
}
_WORDS = {
    "day": ("day", "sunny", "noon", "morning", "blue"),
    "dawn": ("dawn", "sunrise", "pink", "spring"),
    "dusk": ("dusk", "sunset", "evening", "orange", "autumn", "warm", "lighthouse"),
    "night": ("night", "moon", "stars", "star", "dark", "space", "midnight", "cyberpunk"),
    "storm": ("storm", "rain", "fog", "grey", "gray", "cloud", "clouds", "thunder"),
    "forest": ("forest", "tree", "trees", "wood", "jungle", "green"),
    "desert": ("desert", "sand", "dune", "dunes", "mars", "yellow"),
    "snow": ("snow", "ice", "winter", "arctic", "white", "mountain", "mountains"),
    "rock": ("rock", "stone", "city", "robot", "castle", "cinematic"),
    "sea": ("sea", "ocean", "lake", "water", "beach", "lighthouse", "boat", "ship", "island", "river"),
}


class ImageRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that count; all others are ignored."""

    prompt: str
    n: int | None = None
    size: str | None = None
    output_format: str | None = None
    output_compression: int | None = None
    background: str | None = None

    def wish(self) -> Wish:
        """What each picture is to be. Raises Refused."""
        try:
            return wish_of(
                size=self.size,
                output_format=self.output_format,
                output_compression=self.output_compression,
                background=self.background,
            )
        except WrongWish as wrong:
            raise Refused(400, f"{wrong}.", wrong.param) from None


def checked(body: bytes) -> ImageRequest:
    """The request. Raises Refused."""
    try:
        request = msgspec.json.decode(body, type=ImageRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, f"The body is no image request: {error}") from None
    if not 1 <= len(request.prompt) <= MAX_PROMPT_CHARACTERS:
        raise Refused(400, f"prompt has 1 to {MAX_PROMPT_CHARACTERS} characters.", "prompt")
    if request.n is not None and not 1 <= request.n <= MAX_IMAGES:
        raise Refused(400, f"n is 1 to {MAX_IMAGES}.", "n")
    request.wish()
    return request


def answer(request: ImageRequest, *, created: int) -> dict[str, object]:
    """OpenAI's answer; blocks."""
    wish = request.wish()
    files = [packed(landscape(request.prompt, wish.size, variant=index), wish) for index in range(request.n or 1)]
    data = [{"b64_json": base64.b64encode(file).decode()} for file in files]
    return {"created": created, "data": data, "model": IMAGE, "output_format": wish.format}


def landscape(prompt: str, size: tuple[int, int], *, variant: int = 0) -> "Image.Image":
    """A picture of that size; blocks. No shape is drawn in more than `size / _STEP_PX` points."""
    from PIL import ImageDraw

    words = set(re.findall(r"[a-z]+", prompt.lower()[:2000]))
    source = random.Random(f"{prompt}/{variant}")
    hour = _named(words, _SKIES) or source.choice(("day", "dawn", "dusk"))
    ground = _GROUNDS[_named(words, _GROUNDS) or source.choice(("hills", "forest", "rock"))]
    high, low, light = _SKIES[hour]
    picture = _sky(size, high, low)
    draw = ImageDraw.Draw(picture)
    if hour == "night":
        _stars(draw, size, source)
    _sun(draw, size, light, source, is_hidden=hour == "storm")
    horizon = 0.62 if words & set(_WORDS["sea"]) else 0.5
    for layer in range(_LAYERS):
        depth = (layer + 1) / _LAYERS
        shade = _mixed(low, _mixed(ground, high, 0.35 * (1 - depth)), 0.25 + 0.75 * depth)
        draw.polygon(_ridge(size, horizon + 0.09 * layer, 0.16 * (1.1 - depth), source), fill=shade)
    if words & set(_WORDS["sea"]):
        _water(draw, size, _mixed(high, low, 0.4), light, source)
    return picture


def _named(words: set[str], choices: "dict[str, tuple[Colour, Colour, Colour]] | dict[str, Colour]") -> str:
    return next((name for name in choices if words & set(_WORDS.get(name, ()))), "")


def _sky(size: tuple[int, int], high: Colour, low: Colour) -> "Image.Image":
    from PIL import Image

    column = Image.new("RGB", (1, 64))
    for y in range(64):
        column.putpixel((0, y), _mixed(high, low, min(1.0, y / 40)))
    return column.resize(size, Image.Resampling.BICUBIC)


def _sun(
    draw: "ImageDraw.ImageDraw", size: tuple[int, int], light: Colour, source: random.Random, *, is_hidden: bool
) -> None:
    width, height = size
    x, y, radius = width * source.uniform(0.2, 0.8), height * source.uniform(0.15, 0.45), min(size) * 0.06
    if not is_hidden:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=light)


def _stars(draw: "ImageDraw.ImageDraw", size: tuple[int, int], source: random.Random) -> None:
    for _ in range(160):
        x, y, bright = source.uniform(0, size[0]), source.uniform(0, size[1] * 0.6), source.randint(120, 255)
        draw.point((x, y), fill=(bright, bright, min(255, bright + 20)))


def _ridge(size: tuple[int, int], top: float, swing: float, source: random.Random) -> list[tuple[float, float]]:
    """The outline of a range of hills: three waves, and the ground below."""
    width, height = size
    waves = [(source.uniform(0.6, 1.6) * 2**octave, source.uniform(0, math.tau), 0.5**octave) for octave in range(3)]
    points = [(0.0, float(height))]
    for x in range(0, width + _STEP_PX, _STEP_PX):
        rise = sum(share * math.sin(math.tau * often * x / width + phase) for often, phase, share in waves)
        points.append((float(x), height * (top - swing * rise / 2)))
    return [*points, (float(width), float(height))]


def _water(
    draw: "ImageDraw.ImageDraw", size: tuple[int, int], colour: Colour, light: Colour, source: random.Random
) -> None:
    width, height = size
    top = int(height * 0.8)
    draw.rectangle((0, top, width, height), fill=colour)
    for _ in range(60):
        x, y, length = source.uniform(0, width), source.uniform(top, height), source.uniform(0.02, 0.12) * width
        draw.line((x, y, x + length, y), fill=_mixed(colour, light, source.uniform(0.1, 0.5)))


def _mixed(one: Colour, other: Colour, share: float) -> Colour:
    """Between two colours: 0 is the one, 1 the other."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue
