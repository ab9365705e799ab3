"""A path belongs to the surface with the longest prefix; the config file says which there are."""

from pathlib import Path
from unittest.mock import Mock

import pytest
from fastapi.routing import iter_route_contexts
from prometheus_client import CollectorRegistry

from chassis.config import ConfigError, read
from services.edge.app import client_address, new_fastapi
from services.edge.config import EdgeConfig, parse, without_file
from services.edge.openapi.document import described_routes
from services.edge.paid.operations import OPERATIONS
from services.edge.site import describe, own_site, public_site
from services.edge.surfaces import ENDPOINTS, OWN_PATHS


def config(tmp_path: Path, text: str) -> EdgeConfig:
    """The configuration that this text says."""
    path = tmp_path / "tollbridge.yaml"
    path.write_text(text)
    return parse(read(path), {})


def test_the_longest_prefix_wins(tmp_path: Path) -> None:
    """`/api/v1/models` is `/models` below `/api/v1`, not something below `/api`."""
    table = config(tmp_path, "surfaces: [{prefix: /api}, {prefix: /api/v1, without: [videos]}]").surfaces
    found = table.find("/api/v1/models/openai/gpt-5")
    assert found is not None
    surface, rest = found
    assert (surface.prefix, rest) == ("/api/v1", "/models/openai/gpt-5")
    assert surface.hides("/videos/7")
    assert not surface.hides("/models")
    assert table.find("/apiv1/models") is None
    assert table.find("/api") is not None


def test_a_surface_at_the_root_has_all_but_edges_own_paths(tmp_path: Path) -> None:
    """For clients with the bare address as base URL, also for what is not there; longer prefixes win."""
    table = config(tmp_path, "surfaces: [{prefix: /v1}, {prefix: /, dialect: techstone}]").surfaces
    found = {path: table.find(path) for path in ("/chat/completions", "/models", "/v1/models", "/health", "/", "/v2/x")}
    assert {path: each and (each[0].dialect.name, each[1]) for path, each in found.items()} == {
        "/chat/completions": ("techstone", "/chat/completions"),
        "/models": ("techstone", "/models"),
        "/v1/models": ("openai", "/models"),
        "/health": None,
        "/": ("techstone", "/"),
        "/v2/x": ("techstone", "/v2/x"),
    }


def test_without_a_file_there_is_one_surface() -> None:
    """The default is the openai dialect under /v1."""
    found = without_file().surfaces.find("/v1/models")
    assert found is not None
    assert found[0].dialect.name == "openai"


def test_edge_needs_none_of_billings_secrets(tmp_path: Path) -> None:
    """Of `billing` only what edge acts upon is read: what else is there names variables that edge is not given."""
    text = 'billing: {top_up_url: "https://pay.example", stripe: {secret_key: "${NOT_OURS}"}}'
    found = config(tmp_path, text).surfaces.find("/v1/models")
    assert found is not None
    assert found[0].dialect.top_up_url == "https://pay.example"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("surfaces: [{prefix: v1}]", "surfaces[0].prefix"),
        ("surfaces: [{prefix: /admin/x}]", "surfaces[0].prefix"),
        ("surfaces: [{prefix: /openapi.json}]", "surfaces[0].prefix"),
        ("surfaces: [{prefix: /v1}, {prefix: /v1/}]", "surfaces[1].prefix"),
        ("surfaces: [{prefix: /v1, dialect: klingon}]", "surfaces[0].dialect"),
        ("surfaces: [{prefix: /v1, without: [videos, zz]}]", "surfaces[0].without[1]"),
        ("trusted_proxies: [10.0.0.1/8]", "trusted_proxies[0]"),
        ("metrics: {prefix: a-b}", "metrics.prefix"),
    ],
)
def test_a_wrong_section_names_file_line_and_key(tmp_path: Path, text: str, key: str) -> None:
    """A mistake is refused with its place."""
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, text)
    assert caught.value.key == key
    assert caught.value.line == 1


@pytest.mark.parametrize(
    ("peer", "forwarded", "seen"),
    [
        ("10.1.1.1", "8.8.8.8", "8.8.8.8"),
        ("10.1.1.1", "1.1.1.1, 8.8.8.8, 10.2.2.2", "8.8.8.8"),
        ("9.9.9.9", "8.8.8.8", "9.9.9.9"),
        ("10.1.1.1", "junk", "10.1.1.1"),
        ("10.1.1.1", "", "10.1.1.1"),
    ],
)
def test_only_trusted_proxies_may_say_where_a_client_is(tmp_path: Path, peer: str, forwarded: str, seen: str) -> None:
    """X-Forwarded-For counts from a trusted proxy only, and then its last untrusted hop."""
    networks = config(tmp_path, "trusted_proxies: [10.0.0.0/8]").trusted_proxies
    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    assert client_address({"client": (peer, 1), "headers": headers}, networks) == seen


def test_every_public_endpoint_can_be_switched_off() -> None:
    """`without` knows the first step of each path that is served below a prefix."""
    site = public_site(clients=Mock(), admission=Mock(), claims=Mock(), limits=Mock(), unsettled=lambda _: None)
    served = {path.split("/")[1] for path, _, _ in described_routes(site)}
    assert {"models", "images", "keys", "usage"} <= served
    assert served | {operation.path.split("/")[1] for operation in OPERATIONS} <= ENDPOINTS


def test_edges_own_paths_are_nobody_elses() -> None:
    """Whatever edge serves outside the surfaces is kept from a surface at the root."""
    site = own_site(
        clients=Mock(),
        admin_token=lambda: "",
        name="machine/0",
        edges=Mock(),
        registry=CollectorRegistry(),
        drain=Mock(),
        unready=lambda: None,
        forget=lambda **_: None,
    )
    describe(site, public=new_fastapi(), config=without_file)
    served = {each.path.split("/")[1] for each in iter_route_contexts(site.routes)}
    assert {"health", "admin", "docs", "openapi.json"} <= served <= OWN_PATHS
    assert not OWN_PATHS & ENDPOINTS
