"""Where the public API is mounted, and in which dialect: several surfaces live side by side in one process."""

import dataclasses

from services.edge.dialects.dialect import Dialect

ENDPOINTS = frozenset(
    {
        "audio",
        "billing",
        "chat",
        "completions",
        "credits",
        "embeddings",
        "files",
        "images",
        "keys",
        "messages",
        "models",
        "moderations",
        "quote",
        "requests",
        "responses",
        "tasks",
        "usage",
        "videos",
    }
)
"""What `without` may name: the first step of every path of the public API, those to come included."""

OWN_PATHS = frozenset(
    {".well-known", "admin", "console", "docs", "health", "livez", "metrics", "openapi.json", "readyz", "webhooks"}
)
"""The first steps of edge's own paths, where no surface can be."""

OPERATORS_PATHS = frozenset({"admin", "metrics"})
"""Those of them that are nobody else's business: where there is an admin port, they are on it alone."""

ADMIN_PORT_PATHS = OPERATORS_PATHS | {"health", "livez", "readyz"}


def first_step(path: str) -> str:
    """`admin` of `/admin/keys`."""
    return path[1:].split("/", maxsplit=1)[0]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """One mount of the public API; `prefix` is empty at the root. `without` names endpoints that answer 404 there."""

    prefix: str
    dialect: Dialect
    models_public: bool
    without: frozenset[str]

    def reaches(self, path: str) -> bool:
        """Whether `path` is below the prefix; at the root all is but edge's own paths."""
        if not self.prefix:
            return first_step(path) not in OWN_PATHS
        return path.startswith(self.prefix + "/") or path == self.prefix

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
            if surface.reaches(path) and (best is None or len(surface.prefix) > len(best.prefix)):
                best = surface
        return None if best is None else (best, path[len(best.prefix) :] or "/")
