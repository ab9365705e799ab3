"""Images over OpenAI's protocol: one call, whose answer holds the images or links to them."""

from collections.abc import Mapping

from pricing.tokens import Units
from services.tasks.image_order import ImageOrder
from services.tasks.kind import File, Making, Product, ResultTooLarge
from services.tasks.results import MAX_FILE_BYTES
from upstream.client import HttpCall
from upstream.openai import images
from upstream.outcome import AnswerTooLarge, ProviderMisbehaved

_NOT_FORWARDED = ("stream", "partial_images", "webhook_url")
_MAGIC = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))


class ImageMaker:
    """Makes images."""

    async def make(self, making: Making[ImageOrder]) -> Product:
        """Calls once. Raises AttemptFailed, AnswerTooLarge, ResultTooLarge."""
        wanted = making.wanted
        response = await making.send(images.prepare(_body(wanted.fields), making.route, request_id=making.task_id))
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


async def _fetched(url: str, making: Making[ImageOrder]) -> bytes:
    """The bytes behind a provider's link, fetched at once, for such links expire. No credential goes along."""
    if not url.startswith(("https://", "http://")):
        raise ProviderMisbehaved("the provider's answer holds a link that can't be followed")
    call = HttpCall(method="GET", url=url, headers={}, body=b"")
    response = await making.providers.client.send(call, timeouts=making.route.timeouts)
    try:
        if response.status != 200:
            raise ProviderMisbehaved("the provider's link to its image does not work")
        return await response.read(MAX_FILE_BYTES)
    finally:
        response.close()


def content_type(data: bytes) -> str:
    """What an image is, by its first bytes; a provider's word for it is not needed."""
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return "application/octet-stream"


def _body(fields: Mapping[str, object]) -> dict[str, object]:
    """The client's body without what would change the answer's form; where a form is asked for, it is base64."""
    body = {name: value for name, value in fields.items() if name not in _NOT_FORWARDED}
    if "response_format" in body:
        body["response_format"] = "b64_json"
    return body
