"""OpenAI's image generation: the call and its answer. Images come back as base64 or as links that soon expire."""

import base64
import binascii
import dataclasses
from collections.abc import Mapping

import msgspec

from pricing.tokens import ImplausibleUsage, Tokens, Units, from_openai
from upstream.client import HttpCall
from upstream.openai.chat import json_call
from upstream.openai.errors import error_failure, read_error
from upstream.outcome import ProviderMisbehaved
from upstream.route import Route
from upstream.usage import Captured, cost_nano_usd, exact_number

MAX_ANSWER_BYTES = 128 * 1024 * 1024
_ONLY_BASE64 = ("gpt-image", "chatgpt-image")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image: its bytes, or the provider's link to it."""

    data: bytes | None
    url: str | None
    revised_prompt: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImagesAnswer:
    """The images of one call, in order, and their usage."""

    images: tuple[Image, ...]
    captured: Captured


class _Image(msgspec.Struct, frozen=True):
    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None


class _Answer(msgspec.Struct, frozen=True):
    data: list[_Image] | None = None
    usage: object = None
    error: msgspec.Raw = msgspec.Raw(b"null")


_ANSWER = msgspec.json.Decoder(_Answer, float_hook=exact_number)


def prepare(body: Mapping[str, object], route: Route, *, request_id: str) -> HttpCall:
    """The provider's call for a client's request; fields that we don't know travel on.

    Where the client chose a form of the answer, base64 is asked for: a link is one more call. OpenAI's own image models
    know no other form and refuse the field.
    """
    sent = {**body, "model": route.provider_model}
    has_form = sent.pop("response_format", None) is not None
    if has_form and not any(name in route.provider_model for name in _ONLY_BASE64):
        sent["response_format"] = "b64_json"
    return json_call(route, "/images/generations", sent, request_id=request_id)


def read_answer(body: bytes) -> ImagesAnswer:
    """Reads an answer with status 2xx. Raises AttemptFailed when it holds an error, or no image."""
    try:
        answer = _ANSWER.decode(body)
        images = tuple(_image(image) for image in answer.data or [])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, binascii.Error) as error:
        raise ProviderMisbehaved("the provider's answer holds no images") from error
    if bytes(answer.error) != b"null":
        raise error_failure(*read_error(answer.error))
    if not images:
        raise ProviderMisbehaved("the provider's answer holds no images")
    usage = answer.usage if isinstance(answer.usage, dict) else {}
    tokens, implausible = _tokens(usage)
    cost, is_cost_odd = _cost(usage)
    captured = Captured(
        tokens=tokens,
        so_far=tokens,
        units=Units(requests=1, images=len(images)),
        reported_cost_nano_usd=cost,
        complete=True,
        implausible=implausible or is_cost_odd,
    )
    return ImagesAnswer(images=images, captured=captured)


def _image(image: _Image) -> Image:
    data = None if image.b64_json is None else base64.b64decode(image.b64_json, validate=True)
    if not data and not image.url:
        raise ProviderMisbehaved("the provider's answer holds an image without content")
    return Image(data=data or None, url=image.url, revised_prompt=image.revised_prompt)


def _cost(usage: Mapping[str, object]) -> tuple[int | None, bool]:
    """What the provider says that it took, and whether that can't be."""
    try:
        return cost_nano_usd(usage), False
    except ImplausibleUsage:
        return None, True


def _tokens(usage: Mapping[str, object]) -> tuple[Tokens | None, bool]:
    """Tokens that image models report; they name them as the Responses API does. None where a total is not said."""
    if usage.get("input_tokens") is None or usage.get("output_tokens") is None:
        return None, False
    details = usage.get("input_tokens_details")
    images = details.get("image_tokens", 0) if isinstance(details, dict) else 0
    try:
        whole = from_openai({"prompt_tokens": usage["input_tokens"], "completion_tokens": usage["output_tokens"]})
        image_input = Tokens(image_input=images).image_input
        plain = whole.input - image_input
        return Tokens(input=plain, image_input=image_input, output=whole.output), False
    except ImplausibleUsage:
        return None, True
