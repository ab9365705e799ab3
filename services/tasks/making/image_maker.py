"""Images over OpenAI's protocol: one call, whose answer holds the images or links to them.

A link that does not work is tried again for a while: whoever orders anew instead pays for the images anew.
"""

import asyncio
from collections.abc import Mapping

from pricing.tokens import Units
from services.tasks.files.file_types import content_type
from services.tasks.files.results import MAX_FILE_BYTES
from services.tasks.making.image_order import ImageOrder
from services.tasks.making.kind import File, Making, Product, ResultTooLarge
from upstream import links
from upstream.openai import images
from upstream.outcome import AnswerTooLarge, AttemptFailed

FETCH_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
_NOT_FORWARDED = ("stream", "partial_images", "webhook_url")


class ImageMaker:
    """Makes images."""

    async def make(self, making: Making[ImageOrder]) -> Product:
        """Calls once. Raises AttemptFailed, AnswerTooLarge, ResultTooLarge."""
        wanted = making.wanted
        response = await making.send(images.prepare(sent(wanted.fields), making.route, request_id=making.task_id))
        try:
            answer = images.read_answer(await response.read(images.MAX_ANSWER_BYTES))
        finally:
            response.close()
        chosen = answer.images[: wanted.images]
        units = Units(requests=1, images=len(chosen))
        try:
            files = tuple([await _file(image, making) for image in chosen])
        except AnswerTooLarge as error:
            raise ResultTooLarge(Product(files=(), units=units, captured=answer.captured)) from error
        return Product(files=files, units=units, captured=answer.captured)

    async def cancel(self, making: Making[ImageOrder]) -> None:
        """There is no job at the provider, only a call."""


async def _file(image: images.Image, making: Making[ImageOrder]) -> File:
    data = image.data
    if data is None:
        data = await _fetched(image.url or "", making)
    elif len(data) > MAX_FILE_BYTES:
        raise AnswerTooLarge("the provider's image is larger than what can be kept")
    return File(data=data, content_type=content_type(data))


async def _fetched(link: str, making: Making[ImageOrder]) -> bytes:
    client = making.providers.client
    for pause_s in FETCH_PAUSES_S:
        try:
            return await links.fetch(link, making.route, client=client, max_bytes=MAX_FILE_BYTES)
        except AnswerTooLarge:
            raise
        except AttemptFailed:
            await asyncio.sleep(pause_s)
    return await links.fetch(link, making.route, client=client, max_bytes=MAX_FILE_BYTES)


def sent(fields: Mapping[str, object]) -> dict[str, object]:
    """The client's body without what is ours and what would change the answer's shape."""
    return {name: value for name, value in fields.items() if name not in _NOT_FORWARDED}
