"""Where the public API is mounted, and in which dialect: several surfaces live side by side in one process."""

import dataclasses

from services.edge.dialects.dialect import Dialect


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """One mount of the public API. `without` names endpoints that answer 404 there."""

    prefix: str
    dialect: Dialect
    models_public: bool
    without: frozenset[str]

    def hides(self, path: str) -> bool:
        """Whether the endpoint of `path` (below the prefix, such as `/images/generations`) is switched off."""
        return bool(self.without) and path.strip("/").split("/")[0] in self.without


@dataclasses.dataclass(frozen=True, slots=True)
class SurfaceTable:
    """The surfaces, found by the longest prefix of a path."""

    surfaces: tuple[Surface, ...]

    def find(self, path: str) -> tuple[Surface, str] | None:
        """The surface that `path` belongs to and the rest of the path below it, or None."""
        best: Surface | None = None
        for surface in self.surfaces:
            under = path.startswith(surface.prefix + "/") or path == surface.prefix
            if under and (best is None or len(surface.prefix) > len(best.prefix)):
                best = surface
        return None if best is None else (best, path[len(best.prefix) :] or "/")
