"""The sandbox's moderations: an input is flagged for every category whose name it has in it, and for nothing else.

Plainly no judgement, so that nobody mistakes it for one, and a demo shows both answers.
"""

from collections.abc import Sequence

import msgspec

CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)


class _Part(msgspec.Struct, frozen=True):
    type: str
    text: str = ""


class ModerationRequest(msgspec.Struct, frozen=True):
    """A moderation request, as far as the sandbox reads it."""

    model: str
    input: str | list[str | _Part]

    @property
    def texts(self) -> Sequence[str]:
        """What each result is about; parts are judged together."""
        if isinstance(self.input, str):
            return [self.input]
        parts = [each.text for each in self.input if isinstance(each, _Part)]
        return [each for each in self.input if isinstance(each, str)] + (["\n".join(parts)] if parts else [])


def moderation_answer(request: ModerationRequest, *, moderation_id: str) -> bytes:
    """The answer in OpenAI's shape, which has no usage."""
    results = [_result(text.lower()) for text in request.texts]
    return msgspec.json.encode({"id": f"modr-{moderation_id}", "model": request.model, "results": results})


def _result(text: str) -> dict[str, object]:
    named = {category: category in text for category in CATEGORIES}
    return {
        "flagged": any(named.values()),
        "categories": named,
        "category_scores": {category: float(is_named) for category, is_named in named.items()},
        "category_applied_input_types": {category: ["text"] for category in CATEGORIES},
    }
