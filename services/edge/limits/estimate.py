"""How many tokens a request is taken for against its limit, before it has run. What it really used counts after it."""

from services.edge.catalogue import Catalogue
from services.edge.paid.paid_request import PaidRequest

BYTES_PER_TOKEN = 4
USUAL_OUTPUT = 512
"""Of each answer, where the client sets no limit."""


async def estimated_tokens(request: PaidRequest, catalogue: Catalogue) -> int:
    """What is sent, by its size, and what may come of it: as much as is asked for and as the model makes."""
    text = len(request.body) - sum(piece.inline_bytes for piece in request.pieces)
    prompt = max(1, text // BYTES_PER_TOKEN) + request.sound_tokens
    each = USUAL_OUTPUT if request.asked_tokens is None else request.asked_tokens
    if request.choices and each > USUAL_OUTPUT:
        each = min(each, await catalogue.most_output(request.model) or each)
    return prompt + request.choices * each


def job_tokens(body: bytes) -> int:
    """Of a long job only what is sent: what it makes is no text."""
    return max(1, len(body) // BYTES_PER_TOKEN)
