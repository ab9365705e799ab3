"""How hard to think, from OpenAI's words into Anthropic's `output_config.effort`, and what of a chat has none there.

Only some of Anthropic's models take an effort, the others refuse the request; which do is told by a model's name alone.
A budget for thinking would be no way out: newer models refuse that.
"""

import re
from collections.abc import Mapping

import msgspec

from services.edge.paid.paid_request import PaidRequest
from upstream.route import Route, WireProtocol

_EFFORTS = {
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
"""Not all models that take an effort know more than high, or can be kept from thinking."""
_NAME = re.compile(r"claude-([a-z]+)-(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
_FIRST = (4, 6)
_FIRST_OPUS = (4, 5)
_LEFT_OUT = ("frequency_penalty", "presence_penalty", "seed", "logit_bias", "verbosity")
"""What Messages has no words for."""
_NOTHING: tuple[object, ...] = (None, 0.0, {})
_IN_RESPONSES = {"reasoning_effort": "reasoning.effort", "verbosity": "text.verbosity"}


def effort_of(fields: Mapping[str, object], *, provider_model: str) -> str | None:
    """The effort that a chat asks for, as this model takes it; None where it asks for none, or can't be told."""
    wanted = _plain(fields.get("reasoning_effort"))
    return _EFFORTS.get(wanted) if isinstance(wanted, str) and _takes_effort(provider_model) else None


def left_out_of_chat(request: PaidRequest, route: Route) -> list[str]:
    """The fields of a chat that its provider is not told."""
    if route.protocol is not WireProtocol.ANTHROPIC:
        return []
    names = [name for name in _LEFT_OUT if _plain(request.fields.get(name)) not in _NOTHING]
    wanted = _plain(request.fields.get("reasoning_effort"))
    is_lost = wanted is not None and effort_of(request.fields, provider_model=route.provider_model) is None
    return ["reasoning_effort", *names] if is_lost else names


def left_out_of_response(request: PaidRequest, route: Route) -> list[str]:
    """The same for a response, whose request is a chat already, in the words of its own fields."""
    return [_IN_RESPONSES.get(name, name) for name in left_out_of_chat(request, route)]


def _takes_effort(model: str) -> bool:
    found = _NAME.search(model.lower())
    if found is None:
        return False
    version = (int(found[2]), int(found[3] or 0))
    return version >= (_FIRST_OPUS if found[1] == "opus" else _FIRST)


def _plain(value: object) -> object:
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value
