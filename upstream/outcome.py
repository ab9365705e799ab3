"""How an attempt at a provider ends, in the words that router counts by, and the one exception for failures."""

import enum

from chassis.errors import Code, TollbridgeError

MAX_EXCERPT_CHARACTERS = 1000
"""What is kept of a provider's own words: enough to act on, too little to flood a log."""
MAX_RETRY_AFTER_S = 60.0
"""The longest pause that a client is ever told."""


class Outcome(enum.StrEnum):
    """How one attempt ended; the same words as router's `Outcome`."""

    SUCCESS = "success"
    REJECTED = "rejected"
    RATE_LIMITED = "rate_limited"
    CREDENTIAL_REFUSED = "credential_refused"
    SERVER_ERROR = "server_error"
    TIMED_OUT = "timed_out"
    UNREACHABLE = "unreachable"
    CANCELLED = "cancelled"
    MODEL_UNKNOWN = "model_unknown"
    NOT_OFFERED = "not_offered"


class AttemptFailed(Exception):
    """One attempt gave no answer, or stopped giving it.

    `message` holds no secret and no address: it may be shown to the caller when the outcome is `rejected`, and to
    operators otherwise. `excerpt` is the start of the provider's error body, for logs and for its 400s. `param` is the
    field of the request that a provider names where it refuses one.
    """

    def __init__(
        self,
        outcome: Outcome,
        message: str,
        *,
        status: int | None = None,
        retry_after_s: float = 0.0,
        excerpt: str = "",
        param: str = "",
    ) -> None:
        super().__init__(message)
        self.param = param
        self.outcome = outcome
        self.message = message
        self.status = status
        self.retry_after_s = retry_after_s
        self.excerpt = excerpt[:MAX_EXCERPT_CHARACTERS]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.outcome.value}: {self.message})"


class TotalTimeReached(AttemptFailed):
    """The route's total time is over: a stream that runs then ends as `length`, charged as delivered."""


class ProviderMisbehaved(AttemptFailed):
    """The provider's bytes break its own protocol, or a bound that no honest answer needs."""

    def __init__(self, message: str, *, excerpt: str = "") -> None:
        super().__init__(Outcome.SERVER_ERROR, message, excerpt=excerpt)


class JobFailed(AttemptFailed):
    """A job that was submitted to a provider is over there and has no result: it failed, expired, or is unknown."""


class AnswerTooLarge(ProviderMisbehaved):
    """The answer is larger than its reader's bound; it was made all the same, and so it is paid for."""


def to_error(failure: AttemptFailed) -> TollbridgeError:
    """The refusal that a caller gets for a request whose last attempt failed so."""
    if failure.outcome is Outcome.REJECTED:
        details = {"param": failure.param} if failure.param else None
        return TollbridgeError(Code.PROVIDER_REJECTED, failure.message, details=details)
    if failure.outcome is Outcome.RATE_LIMITED:
        pause_s = min(max(failure.retry_after_s, 1.0), MAX_RETRY_AFTER_S)
        return TollbridgeError(
            Code.OVERLOADED, "every provider of this model is busy; try again", retry_after_s=pause_s
        )
    return TollbridgeError(Code.PROVIDER_ERROR, "the provider failed to answer")
