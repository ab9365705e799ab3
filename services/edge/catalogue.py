"""Edge's copy of the public models: asked of router, kept for a second, so that a list costs no round trip.

A copy that can't be renewed is served on until it is `KEEP_S` old; after that the list is unavailable, rather than
wrong. Concurrent callers share one question.
"""

import asyncio
import time

from chassis.errors import TollbridgeError
from chassis.pipe import PipeClient
from tollbridge.router.v1 import router_pb2

FRESH_S = 1.0
KEEP_S = 300.0
ASK_TIMEOUT_S = 2.0


class Catalogue:
    """The models by id, in the config's order."""

    def __init__(self, *, router: PipeClient) -> None:
        self._router = router
        self._models: dict[str, router_pb2.Model] = {}
        self._asked_at_s = float("-inf")
        self._asking: asyncio.Lock = asyncio.Lock()

    async def models(self) -> dict[str, router_pb2.Model]:
        """Every public model by its id. Raises UNAVAILABLE when router has been silent for too long."""
        async with self._asking:
            age_s = time.monotonic() - self._asked_at_s
            if age_s > FRESH_S:
                await self._renew(age_s)
        return self._models

    def known(self, model: str) -> bool:
        """Whether the id is in the last copy: keeps the labels of metrics bounded."""
        return model in self._models

    async def _renew(self, age_s: float) -> None:
        try:
            reply = await self._router.call(
                "ListModels",
                router_pb2.ListModelsRequest(),
                router_pb2.ListModelsResponse,
                timeout_s=ASK_TIMEOUT_S,
            )
        except TollbridgeError:
            if age_s > KEEP_S:
                raise
            return
        self._models = {model.id: model for model in reply.models}
        self._asked_at_s = time.monotonic()
