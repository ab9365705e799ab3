"""The sections of the config file that edge owns: where the public API is mounted, admin, metrics, spool.

Of `billing` edge reads only what it acts upon; billing validates the whole of that section.
"""

import dataclasses
import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from chassis.config import ConfigText, section
from chassis.metrics import MetricsSection
from services.edge.dialects import DEFAULT, DIALECTS
from services.edge.http.cors import ANYBODY, Cors
from services.edge.surfaces import ENDPOINTS, OWN_PATHS, Surface, SurfaceTable

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\sA-Z/?#@*]+")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class SurfaceEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of `surfaces`."""

    prefix: str
    dialect: str = DEFAULT.name
    models_public: bool | None = None
    without: tuple[str, ...] = ()


class AdminEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`admin`: the token left out is made at first start."""

    auth_token: str = ""


class SpoolEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`spool`."""

    sync: Literal["group", "always"] = "group"
    max_mib: int = 1024


class BillingEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What edge acts upon in `billing`; nothing else there is looked at or resolved."""

    on_short_credit: Literal["clamp", "refuse"] = "clamp"
    top_up_url: str = ""


class CorsEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`cors`: whose web pages may call; an empty list is nobody's."""

    origins: tuple[str, ...] = (ANYBODY,)


class Sections(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The top-level keys that edge reads."""

    surfaces: tuple[SurfaceEntry, ...] = (SurfaceEntry(prefix="/v1"),)
    admin: AdminEntry = AdminEntry()
    metrics: MetricsSection = MetricsSection()
    public_url: str = ""
    trusted_proxies: tuple[str, ...] = ()
    cors: CorsEntry = CorsEntry()
    spool: SpoolEntry = SpoolEntry()
    billing: BillingEntry = BillingEntry()


class EdgeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Edge's configuration, ready to use. `public_url` is without a trailing slash, empty when the file is silent."""

    surfaces: SurfaceTable
    admin_token: str
    public_url: str
    trusted_proxies: tuple[Network, ...]
    cors: Cors
    spool: SpoolEntry
    on_short_credit: Literal["clamp", "refuse"]


def parse(text: ConfigText, environ: Mapping[str, str] | None = None) -> EdgeConfig:
    """Reads edge's sections; raises ConfigError that names file, line and key."""
    sections = section(text.with_little_of("billing", BillingEntry.__struct_fields__), Sections, environ=environ)
    return EdgeConfig(
        surfaces=SurfaceTable(_surfaces(text, sections)),
        admin_token=sections.admin.auth_token,
        public_url=_public_url(text, sections.public_url),
        trusted_proxies=_networks(text, sections.trusted_proxies),
        cors=_cors(text, sections.cors),
        spool=_spool(text, sections.spool),
        on_short_credit=sections.billing.on_short_credit,
    )


def without_file() -> EdgeConfig:
    """What holds when no config file is given: one surface of the default dialect under /v1."""
    return parse(ConfigText(path=Path(), hash="", data={}, lines={}), {})


def _surfaces(text: ConfigText, sections: Sections) -> tuple[Surface, ...]:
    surfaces: dict[str, Surface] = {}
    for index, entry in enumerate(sections.surfaces):
        prefix = entry.prefix.rstrip("/")
        if entry.prefix != "/" and (not prefix.startswith("/") or prefix.split("/")[1] in OWN_PATHS | {""}):
            raise text.error(f"{entry.prefix!r} can't be a surface's prefix", ("surfaces", index, "prefix"))
        if prefix in surfaces:
            raise text.error(f"{prefix or '/'} is mounted twice", ("surfaces", index, "prefix"))
        dialect = DIALECTS.get(entry.dialect)
        if dialect is None:
            known = ", ".join(sorted(DIALECTS))
            raise text.error(f"{entry.dialect!r} is none of {known}", ("surfaces", index, "dialect"))
        for place, endpoint in enumerate(entry.without):
            if endpoint not in ENDPOINTS:
                known = ", ".join(sorted(ENDPOINTS))
                raise text.error(f"{endpoint!r} is none of {known}", ("surfaces", index, "without", place))
        public = dialect.models_public if entry.models_public is None else entry.models_public
        surfaces[prefix] = Surface(
            prefix=prefix,
            dialect=dataclasses.replace(dialect, top_up_url=sections.billing.top_up_url),
            models_public=public,
            without=frozenset(entry.without),
        )
    return tuple(surfaces.values())


def _public_url(text: ConfigText, url: str) -> str:
    if not url:
        return ""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise text.error(f"{url!r} is no address such as https://api.example.com", ("public_url",))
    return url.rstrip("/")


def _networks(text: ConfigText, entries: tuple[str, ...]) -> tuple[Network, ...]:
    networks = []
    for index, entry in enumerate(entries):
        try:
            networks.append(ipaddress.ip_network(entry))
        except ValueError as error:
            raise text.error(str(error), ("trusted_proxies", index)) from error
    return tuple(networks)


def _cors(text: ConfigText, cors: CorsEntry) -> Cors:
    for index, origin in enumerate(cors.origins):
        if origin != ANYBODY and not _ORIGIN.fullmatch(origin):
            problem = f"{origin!r} is no origin such as https://app.example.com (lower case, nothing after the port)"
            raise text.error(problem, ("cors", "origins", index))
    return Cors(frozenset(cors.origins))


def _spool(text: ConfigText, spool: SpoolEntry) -> SpoolEntry:
    if not 1 <= spool.max_mib <= 1 << 20:
        raise text.error(f"{spool.max_mib} is not between 1 and {1 << 20}", ("spool", "max_mib"))
    return spool
