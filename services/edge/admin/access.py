"""Who may use the admin API: whoever sends the admin token, compared in constant time."""

import hmac

from fastapi import Request

from chassis.errors import Code, TollbridgeError


class AdminAccess:
    """A FastAPI dependency that refuses every request without the token. An empty token refuses everybody."""

    def __init__(self, *, token: str) -> None:
        self._token = token.encode()

    def __call__(self, request: Request) -> None:
        """Raises INVALID_API_KEY unless the bearer token is the admin's."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        wrong = scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token)
        if wrong or not self._token:
            raise TollbridgeError(Code.INVALID_API_KEY, "The admin token is missing or wrong.")
