"""Why a local model doesn't answer, as OpenAI's API would say it."""


class Refused(Exception):
    """The request is wrong, or too much is asked at once: a status with words and the field that is meant."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param

    def body(self) -> dict[str, object]:
        """The error as JSON."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": None}}
