"""Edge's copy of the public models: asked of router, kept for a second, so that a list costs no round trip.

A copy that can't be renewed is served on until it is `KEEP_S` old; after that the list is unavailable, rather than
wrong. Concurrent callers share one question. Wildcards are in no list: they stand for names that only router knows.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterable

from chassis.errors import TollbridgeError
from chassis.pipe import PipeClient
from services.edge.model_names import is_below, is_wildcard
from tollbridge.router.v1 import router_pb2

FRESH_S = 1.0
KEEP_S = 300.0
ASK_TIMEOUT_S = 2.0


class Catalogue:
    """The models by id, in the config's order."""

    def __init__(self, *, router: PipeClient) -> None:
        self._router = router
        self._models: dict[str, router_pb2.Model] = {}
        self._wildcards: list[router_pb2.Model] = []
        self._asked_at_s = float("-inf")
        self._asking: asyncio.Lock = asyncio.Lock()

    async def models(self) -> dict[str, router_pb2.Model]:
        """Every public model by its id. Raises UNAVAILABLE when router has been silent for too long."""
        async with self._asking:
            age_s = time.monotonic() - self._asked_at_s
            if age_s > FRESH_S:
                await self._renew(age_s)
        return self._models

    async def find(self, name: str) -> router_pb2.Model | None:
        """The model with that id or alias, or the longest wildcard's under that name. Raises UNAVAILABLE."""
        await self.models()
        return self._find(name)

    async def id_of(self, name: str) -> str | None:
        """The id of the model with that name, by what is known within the time for one question; None for no model."""
        with contextlib.suppress(TollbridgeError, TimeoutError):
            async with asyncio.timeout(ASK_TIMEOUT_S):
                await self.models()
        found = self._find(name)
        return None if found is None else found.id

    async def most_output(self, name: str) -> int:
        """How many tokens that model makes at most, by what is known within the time for one question; 0: unknown."""
        with contextlib.suppress(TollbridgeError, TimeoutError):
            async with asyncio.timeout(ASK_TIMEOUT_S):
                await self.models()
        found = self._find(name)
        return 0 if found is None else found.bounds.max_output

    def _find(self, name: str) -> router_pb2.Model | None:
        if name in self._models:
            return self._models[name]
        for model in self._models.values():
            if name in model.aliases:
                return model
        for wildcard in self._wildcards:
            if is_below(wildcard.id, name) and "*" not in name:
                found = router_pb2.Model()
                found.CopyFrom(wildcard)
                found.id = found.display_name = name
                return found
        return None

    async def ids_of(self, names: Iterable[str]) -> list[str]:
        """The names with every alias replaced by its model's id; unknown ones stay. Raises UNAVAILABLE."""
        ids = {alias: model.id for model in (await self.models()).values() for alias in model.aliases}
        return [ids.get(name, name) for name in names]

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
        self._models = {model.id: model for model in reply.models if not is_wildcard(model.id)}
        wildcards = (model for model in reply.models if is_wildcard(model.id))
        self._wildcards = sorted(wildcards, key=lambda model: len(model.id), reverse=True)
        self._asked_at_s = time.monotonic()
