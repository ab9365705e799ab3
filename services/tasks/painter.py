"""Runs an image job at a provider: decide, call, read, and on to the next account when that fails.

It knows nothing of claims and money; what comes back is what was made, by whom, and what the provider said it used.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from chassis.errors import Code, TollbridgeError
from pricing.tokens import Tokens, Units
from services.tasks import image_order
from services.tasks.image_order import ImageOrder
from services.tasks.jobs import Job
from services.tasks.owners import Router
from services.tasks.results import MAX_FILE_BYTES
from services.tasks.settlement import NO_TOKENS, Made
from upstream import calls
from upstream.attempt import Tried, run_attempts
from upstream.client import HttpCall, UpstreamClient
from upstream.openai import images
from upstream.outcome import AnswerTooLarge, ProviderMisbehaved
from upstream.route import Route, WireProtocol
from upstream.sandbox.provider import Sandbox
from upstream.usage import Captured, estimate_input_tokens

MAX_ATTEMPTS = 4
_NOT_FORWARDED = ("stream", "partial_images")
_UNREAD = Captured()
"""What is known of an answer that was not read."""
_MAGIC = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One file that a provider made."""

    data: bytes = dataclasses.field(repr=False)
    content_type: str


class ResultTooLarge(Exception):
    """The provider has made it, and will be paid for it, but it is larger than what can be kept."""

    def __init__(self, made: Made) -> None:
        super().__init__("the provider's result is too large to be kept")
        self.made = made


class Painter:
    """Makes images through whatever account router names."""

    def __init__(self, *, router: Router, client: UpstreamClient, sandbox: Sandbox) -> None:
        self._router = router
        self._client = client
        self._sandbox = sandbox

    async def paint(self, job: Job) -> tuple[Made, tuple[Picture, ...]]:
        """The pictures of a job. Raises AttemptFailed of the last attempt, or what router refused with.

        ResultTooLarge ends it too: another account would be paid for the same.
        """
        wanted = image_order.parse(job.order.body)

        async def decide(tried: Sequence[Tried]) -> Route:
            return await self._router.decide(job, tried)

        async def call(route: Route) -> tuple[Made, tuple[Picture, ...]]:
            return await self._attempt(job, wanted, route)

        made, pictures = await run_attempts(
            decide=decide,
            call=call,
            finish=functools.partial(self._router.finish, job),
            max_attempts=MAX_ATTEMPTS,
        )
        self._router.succeeded(job, made.route)
        return made, pictures

    async def _attempt(self, job: Job, wanted: ImageOrder, route: Route) -> tuple[Made, tuple[Picture, ...]]:
        if route.protocol not in (WireProtocol.OPENAI, WireProtocol.SANDBOX):
            raise TollbridgeError(Code.PROVIDER_NOT_CONFIGURED, "This model's provider makes no images.")
        call = images.prepare(_body(wanted.fields), route, request_id=job.order.id)
        response = await calls.send(route, call, client=self._client, sandbox=self._sandbox)
        made = _made(job, wanted, route, _UNREAD, count=wanted.images)
        try:
            answer = images.read_answer(await response.read(images.MAX_ANSWER_BYTES))
            chosen = answer.images[: wanted.images]
            made = _made(job, wanted, route, answer.captured, count=len(chosen))
            return made, tuple([await self._picture(image, route) for image in chosen])
        except AnswerTooLarge as error:
            raise ResultTooLarge(made) from error
        finally:
            response.close()

    async def _picture(self, image: images.Image, route: Route) -> Picture:
        data = image.data
        if data is None:
            data = await self._fetched(image.url or "", route)
        elif len(data) > MAX_FILE_BYTES:
            raise AnswerTooLarge("the provider's image is larger than what can be kept")
        return Picture(data=data, content_type=content_type(data))

    async def _fetched(self, url: str, route: Route) -> bytes:
        """The bytes behind a provider's link, fetched at once, for such links expire. No credential goes along."""
        if not url.startswith(("https://", "http://")):
            raise ProviderMisbehaved("the provider's answer holds a link that can't be followed")
        call = HttpCall(method="GET", url=url, headers={}, body=b"")
        response = await self._client.send(call, timeouts=route.timeouts)
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


def _made(job: Job, wanted: ImageOrder, route: Route, captured: Captured, *, count: int) -> Made:
    tokens, implausible = captured.tokens, captured.implausible
    if tokens is not None and not _can_be(tokens, job, wanted, route):
        tokens, implausible = None, True
    return Made(
        route=route,
        tokens=NO_TOKENS if tokens is None else tokens,
        units=Units(requests=1, images=count),
        reported_cost_nano_usd=captured.reported_cost_nano_usd,
        generation_id=captured.generation_id,
        is_evidence_counted=tokens is None,
        implausible=implausible,
    )


def _can_be(tokens: Tokens, job: Job, wanted: ImageOrder, route: Route) -> bool:
    """Whether a request with these bounds can have used that much; otherwise the images alone are charged."""
    most_input = estimate_input_tokens(job.order.body, route.bounds)
    most_output = wanted.images * route.bounds.max_output + route.bounds.hidden_output
    return tokens.prompt <= most_input and tokens.completion <= most_output
