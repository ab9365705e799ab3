"""`/openapi.json`: the public API of every surface and edge's own pages, as this instance serves them now.

Paths are whole, prefix included: surfaces differ in what they hide, in the errors of their dialect and in who may list
models. The first surface's operations have plain ids, the others' their prefix behind. Nothing here knows an endpoint:
routes and operations describe themselves.
"""

import asyncio
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from chassis.errors import Code, TollbridgeError
from services.edge.config import EdgeConfig
from services.edge.dialects import DEFAULT, Dialect
from services.edge.openapi.description import Description, Parameter, description_of
from services.edge.openapi.errors import by_status, error_responses, error_schema, request_id_headers, said
from services.edge.openapi.page import page
from services.edge.openapi.schemas import Schemas
from services.edge.surfaces import Surface

Json = dict[str, Any]
_LIMITS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
ABOUT = (
    "One API for the models of many providers, paid from prepaid credits. Send a key as `Authorization: Bearer` or "
    "`x-api-key`; the admin API takes the admin token. Money is in USD; times are RFC 3339 in UTC."
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HotDescription:
    """An endpoint of the hot path, which FastAPI doesn't know: always a POST."""

    path: str
    about: Description
    voice: Callable[[Dialect], Dialect]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A document, as JSON and as a page."""

    document: Json
    text: bytes
    page: bytes


class Documents:
    """Writes the document anew when the configuration has changed; in a thread, since requests wait for the loop."""

    def __init__(
        self, *, config: Callable[[], EdgeConfig], public: FastAPI, own: FastAPI, hot: Sequence[HotDescription]
    ) -> None:
        self._config = config
        self._public = public
        self._own = own
        self._hot = hot
        self._kept: dict[str, tuple[EdgeConfig, Written]] = {}
        self._writing = asyncio.Lock()

    async def get(self, prefix: str | None = None) -> Written:
        """The document; of one surface alone with that one's prefix. Raises NOT_FOUND for no surface."""
        config = self._config()
        if prefix is not None and all(each.prefix != prefix for each in config.surfaces.surfaces):
            raise TollbridgeError(Code.NOT_FOUND, "There is no such surface.", details={"param": "surface"})
        async with self._writing:
            kept = self._kept.get(prefix or "")
            if kept is None or kept[0] is not config:
                self._kept = {key: each for key, each in self._kept.items() if each[0] is config}
                kept = self._kept[prefix or ""] = (config, await asyncio.to_thread(self._written, config, prefix))
        return kept[1]

    def _written(self, config: EdgeConfig, prefix: str | None) -> Written:
        made = self._made(config, prefix)
        return Written(document=made, text=msgspec.json.encode(made), page=page(made).encode())

    def _made(self, config: EdgeConfig, prefix: str | None) -> Json:
        writer = _Writer()
        first = prefix or next((each.prefix for each in config.surfaces.surfaces), "")
        for surface in config.surfaces.surfaces:
            if prefix in (None, surface.prefix):
                self._write_surface(writer, surface, suffix="" if surface.prefix == first else _slug(surface.prefix))
        for path, method, about in _routes(self._own):
            writer.write(path, method, about, dialect=DEFAULT)
        return {
            "openapi": "3.1.0",
            "info": {"title": "Tollbridge", "version": metadata.version("tollbridge"), "description": ABOUT},
            "servers": [{"url": config.public_url or "/"}],
            "tags": [{"name": tag} for tag in writer.tags],
            "paths": writer.paths,
            "components": writer.components(),
        }

    def _write_surface(self, writer: "_Writer", surface: Surface, *, suffix: str) -> None:
        hot = ((each.path, "post", each.about, each.voice(surface.dialect)) for each in self._hot)
        rest = ((path, method, about, surface.dialect) for path, method, about in _routes(self._public))
        for path, method, about, dialect in (*hot, *rest):
            if not surface.hides(path):
                writer.write(
                    surface.prefix + path,
                    method,
                    about,
                    dialect=dialect,
                    suffix=suffix,
                    is_public=about.access == "list" and surface.models_public,
                )


class _Writer:
    """Collects paths and the components that they refer to."""

    def __init__(self) -> None:
        self.paths: dict[str, Json] = {}
        self.tags: dict[str, None] = {}
        self._schemas = Schemas()
        self._errors: dict[tuple[str, object], tuple[str, Dialect]] = {}

    def write(
        self,
        path: str,
        method: str,
        about: Description,
        *,
        dialect: Dialect,
        suffix: str = "",
        is_public: bool = False,
    ) -> None:
        """Adds one endpoint."""
        self.tags.setdefault(about.tag)
        found: Json = {"operationId": about.name + suffix, "tags": [about.tag], "summary": about.summary}
        if about.about:
            found["description"] = about.about
        parameters = [*_in_path(path), *(self._parameter(each) for each in about.parameters)]
        if parameters:
            found["parameters"] = parameters
        body = self._body(about)
        if body:
            found["requestBody"] = body
        found["responses"] = self._answers(about, dialect) | self._refusals(about, dialect)
        found["security"] = ([{}] if is_public else []) + _SECURITY[about.access]
        self.paths.setdefault(path, {})[method] = found

    def components(self) -> Json:
        """What the paths refer to."""
        schemas = dict(self._schemas.components)
        responses: Json = {}
        for name, dialect in self._errors.values():
            schemas[name] = error_schema(dialect)
            made = error_responses(dialect, schema=f"#/components/schemas/{name}")
            responses.update((f"{name}{status}", each) for status, each in made.items())
        return {"schemas": schemas, "responses": responses, "securitySchemes": _SCHEMES}

    def _parameter(self, found: Parameter) -> Json:
        place = "header" if found.is_header else "query"
        return {"name": found.name, "in": place, "description": found.about, "schema": self._schemas.of(found.shape)}

    def _body(self, about: Description) -> Json:
        content: Json = {}
        for kind, shape in (("application/json", about.body), ("multipart/form-data", about.form)):
            if shape is not None:
                content[kind] = {"schema": self._schemas.of(shape, prefix=about.prefix)}
                if about.example is not None:
                    content[kind]["example"] = about.example
        return {"required": True, "content": content} if content else {}

    def _answers(self, about: Description, dialect: Dialect) -> Json:
        headers: Json = request_id_headers(dialect)
        if dialect.always_rate_limits and about.access != "admin":
            headers.update((name, {"schema": {"type": "integer", "minimum": 0}}) for name in _LIMITS)
        for each in about.headers:
            headers[each.name] = {"description": each.about, "schema": self._schemas.of(each.shape)}
        content: Json = {}
        if about.answer is not None:
            content["application/json"] = {"schema": self._schemas.of(about.answer)}
        for media in about.media:
            content[media.content_type] = {"schema": self._schemas.of(media.shape)}
        made: Json = {"description": "Done", "headers": headers}
        if content:
            made["content"] = content
        others = {str(status): {"description": what} for status, what in about.others}
        return {str(status): made for status in (about.status, *about.statuses)} | others

    def _refusals(self, about: Description, dialect: Dialect) -> Json:
        name = self._error(dialect)
        return {
            str(status): {"$ref": f"#/components/responses/{name}{status}", "description": said(status, codes)}
            for status, codes in by_status(dialect, about.codes).items()
        }

    def _error(self, dialect: Dialect) -> str:
        """The component that this dialect's errors are; `/messages` has its own in each."""
        key = (dialect.name, dialect.error_body)
        if key not in self._errors:
            own = dialect.error_body.__module__.rpartition(".")[2]
            name = "".join(dict.fromkeys((dialect.name.title(), own.title()))) + "Error"
            self._errors[key] = (name, dialect)
        return self._errors[key][0]


_SECURITY: Mapping[str, list[Json]] = {
    "key": [{"apiKey": []}, {"xApiKey": []}],
    "list": [{"apiKey": []}, {"xApiKey": []}],
    "admin": [{"adminToken": []}],
    "open": [],
}
_SCHEMES: Json = {
    "apiKey": {"type": "http", "scheme": "bearer", "description": "A customer's API key."},
    "xApiKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same, as Anthropic has it."},
    "adminToken": {"type": "http", "scheme": "bearer", "description": "The operator's token."},
}


def described_routes(site: FastAPI) -> Iterator[tuple[str, str, Description | None]]:
    """Every route: path, method, and its description if it has one."""
    for route in iter_route_contexts(site.routes):
        for method in sorted(route.methods or ()):
            yield route.path_format or "", method.lower(), description_of(getattr(route, "openapi_extra", None))


def _routes(site: FastAPI) -> Iterator[tuple[str, str, Description]]:
    return ((path, method, about) for path, method, about in described_routes(site) if about is not None)


def _in_path(path: str) -> list[Json]:
    """Ids are UUIDs, but for those of models."""
    names = re.findall(r"\{(\w+)\}", path)
    is_uuid = {name: name.endswith("_id") and name != "model_id" for name in names}
    shapes = {name: {"format": "uuid"} if is_uuid[name] else {"minLength": 1} for name in names}
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", **shapes[name]}} for name in names
    ]


def _slug(prefix: str) -> str:
    return "_" + re.sub(r"\W+", "_", prefix).strip("_")
