"""Who may use the admin API: whoever sends the admin token, compared in constant time."""

import hmac
from collections.abc import Callable

from fastapi import Request

from chassis.errors import Code, TollbridgeError


class AdminAccess:
    """A FastAPI dependency that refuses every request without the token of the moment. An empty one refuses everybody.

    It is asked for anew each time, so that a token changed in the config file holds from then on.
    """

    def __init__(self, *, token: Callable[[], str]) -> None:
        self._token = token

    def __call__(self, request: Request) -> None:
        """Raises INVALID_API_KEY unless the bearer token is the admin's."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        token = self._token().encode()
        wrong = scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token)
        if wrong or not token:
            raise TollbridgeError(Code.INVALID_API_KEY, "The admin token is missing or wrong.")
