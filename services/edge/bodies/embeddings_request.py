"""The body of an embeddings request: its input is all that can cost."""

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from chassis.errors import Code, TollbridgeError
from services.edge.bodies.request_body import decode_body, top_level
from services.edge.paid.paid_request import PaidRequest

_Token = Annotated[int, Meta(ge=0)]
_Text = Annotated[str, Meta(min_length=1)]


class EmbeddingsBody(msgspec.Struct, frozen=True, kw_only=True):
    """`input` is a text, some texts, a text's tokens, or those of some texts."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    input: _Text | Annotated[list[_Text | _Token | Annotated[list[_Token], Meta(min_length=1)]], Meta(min_length=1)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    user: str | None = None
    stream: Literal[False] | None = None


_DECODER = msgspec.json.Decoder(EmbeddingsBody)


def parse_embeddings(body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> PaidRequest:
    """Checks the body. Raises INVALID_REQUEST with `param` where a field is to blame."""
    found = decode_body(body, _DECODER)
    if isinstance(found.input, list):
        kind = type(found.input[0])
        for place, one in enumerate(found.input):
            if type(one) is not kind:
                message = f"input[{place}] is not valid: an input is texts or tokens, not both."
                raise TollbridgeError(Code.INVALID_REQUEST, message, details={"param": f"input[{place}]"})
    return PaidRequest(body=body, fields=top_level(body), model=found.model, choices=0)
