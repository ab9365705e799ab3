"""A request that costs money, as far as money needs it: whatever its endpoint, this is what its exchange works with.

Each endpoint's parser makes one from the body (`chat_request` and its neighbours). All else in the body is the
provider's to judge, so it travels on as the client wrote it.
"""

import dataclasses

from pricing.tokens import Units
from services.edge.bodies.request_body import Fields
from services.edge.paid.prompt import cautiously, count_prompt
from upstream.route import Bounds

ONE_REQUEST = Units(requests=1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """An image, a sound or a file in a message: its bytes in the body, and whether its tokens grow with them.

    An image is scaled by its provider to what the model has a limit for; a document, a sound or a video is not.
    """

    inline_bytes: int
    grows: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PaidRequest:
    """A checked request.

    `fields` is its body by top-level fields. `choices` is how many answers are generated; 0 where no text is, so that
    nothing but the input and `most_units` (what is sold by the piece, at most) can cost. `asked_tokens` is the client's
    own limit on output per choice, None without one; `thinking_budget` is the part of it that may go into thinking.
    `headers` travel on to a provider that speaks the client's own protocol. `is_clampable` is False where a provider
    can't be told how much it may generate. `content_type` is the whole answer's. `max_cost_nano_usd` is the client's
    `X-Max-Cost`, None without one. `answer_headers` tell the client what of it was left out.
    """

    body: bytes = dataclasses.field(repr=False)
    fields: Fields = dataclasses.field(repr=False)
    model: str
    stream: bool = False
    include_usage: bool = False
    choices: int = 1
    asked_tokens: int | None = None
    thinking_budget: int = 0
    pieces: tuple[Piece, ...] = ()
    most_units: Units = ONE_REQUEST
    headers: tuple[tuple[str, str], ...] = ()
    is_clampable: bool = True
    content_type: bytes = b"application/json"
    max_cost_nano_usd: int | None = None
    answer_headers: tuple[tuple[bytes, bytes], ...] = ()

    def input_tokens(self, bounds: Bounds) -> int:
        """The most input tokens this can be: no token is shorter than a byte. Pieces count as `piece_tokens` says."""
        text = len(self.body) - sum(piece.inline_bytes for piece in self.pieces)
        return text + self.piece_tokens(bounds) + bounds.template_tokens

    def piece_tokens(self, bounds: Bounds) -> int:
        """The most tokens that all images, sounds and files can be.

        Each counts as the model's limit for a piece, or as its bytes if they are more and its tokens grow with them;
        never more than the context in all, where that is known. Without a limit for a piece its bytes count.
        """
        each = bounds.max_part_tokens
        if not each:
            return sum(piece.inline_bytes for piece in self.pieces)
        most = sum(max(each, piece.inline_bytes if piece.grows else 0) for piece in self.pieces)
        return min(most, max(bounds.context, self.usual_piece_tokens(bounds))) if bounds.context else most

    def usual_piece_tokens(self, bounds: Bounds) -> int:
        """What they are taken for when nobody has counted them: the model's limit for each."""
        return len(self.pieces) * bounds.max_part_tokens

    def prompt_tokens(self, model: str) -> int:
        """All that the model is made to read, counted, but for images, sounds and files. Blocks."""
        return count_prompt(self.body, model)

    @property
    def likely_units(self) -> Units:
        """What of that which is sold by the piece it will likely use, for whoever asks for the price."""
        return self.most_units

    @property
    def likely_sound_tokens(self) -> int:
        """How many tokens of sound it will likely make; where there are any, it makes nothing else."""
        return 0

    @property
    def sound_tokens(self) -> int:
        """How many of the counted ones are of sound, which may have a price of its own."""
        return 0

    def most_prompt_tokens(self, model: str) -> int:
        """The same as a bound, where the tokenizer may be only near the model's. Blocks."""
        return cautiously(self.prompt_tokens(model), model)
