"""What `/openapi.json` says of the surfaces of a config, before anything is asked."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import schemathesis
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from chassis.config import read
from chassis.errors import Code, TollbridgeError
from services.edge.config import EdgeConfig, parse
from services.edge.dialects import DIALECTS
from services.edge.http.hot import hot_descriptions
from services.edge.openapi.document import Documents, described_routes
from services.edge.openapi.page import page
from services.edge.site import describe, own_site, public_site

SURFACES = """
surfaces:
  - {prefix: /v1, dialect: openai}
  - {prefix: /fly/v1, dialect: dragonfly, without: [images, billing, audio]}
"""
Json = dict[str, Any]


def sites(config: EdgeConfig) -> tuple[FastAPI, FastAPI]:
    """The public one and edge's own."""
    public = public_site(clients=Mock(), admission=Mock(), claims=Mock(), limits=Mock(), unsettled=lambda _: None)
    own = own_site(
        clients=Mock(),
        admin_token=lambda: "admin",
        name="machine/0",
        edges=Mock(),
        registry=CollectorRegistry(),
        drain=Mock(),
        unready=lambda: None,
        forget=lambda **_: None,
    )
    describe(own, public=public, config=lambda: config)
    return public, own


def documents(tmp_path: Path, text: str = SURFACES) -> Documents:
    """Of this config."""
    path = tmp_path / "tollbridge.yaml"
    path.write_text(text)
    config = parse(read(path), {})
    public, own = sites(config)
    return Documents(config=lambda: config, public=public, own=own, hot=hot_descriptions())


def operations(document: Json) -> list[Json]:
    """All of them."""
    return [operation for methods in document["paths"].values() for operation in methods.values()]


def test_every_route_says_what_it_is(tmp_path: Path):
    """One that doesn't would be missing from the document."""
    path = tmp_path / "tollbridge.yaml"
    path.write_text(SURFACES)
    found = [each for site in sites(parse(read(path), {})) for each in described_routes(site)]
    assert len(found) > 40
    assert [path for path, _, about in found if about is None] == []


async def test_hidden_endpoints_are_left_out(tmp_path: Path):
    """`without` hides them here as it does when they are asked."""
    document = (await documents(tmp_path).get()).document
    assert {"/v1/images/generations", "/v1/chat/completions", "/fly/v1/chat/completions"} <= set(document["paths"])
    below = [path for path in document["paths"] if path.startswith("/fly/v1")]
    assert not [path for path in below if path.split("/")[3] in ("images", "billing", "audio")]


async def test_every_operation_has_a_name_of_its_own(tmp_path: Path):
    """The first surface's are plain, so that generated clients read well."""
    document = (await documents(tmp_path).get()).document
    names = [each["operationId"] for each in operations(document)]
    assert len(set(names)) == len(names)
    assert {"createChatCompletion", "createChatCompletion_fly_v1"} <= set(names)


async def test_one_surface_can_be_described_alone(tmp_path: Path):
    """With plain names and its own errors; one that is not there is not found."""
    found = documents(tmp_path)
    document = (await found.get("/fly/v1")).document
    assert not [path for path in document["paths"] if path.startswith("/v1")]
    assert "createChatCompletion" in [each["operationId"] for each in operations(document)]
    with pytest.raises(TollbridgeError) as refused:
        await found.get("/nowhere")
    assert refused.value.code is Code.NOT_FOUND


async def test_a_public_list_of_models_needs_no_key(tmp_path: Path):
    """It depends on the surface."""
    document = (await documents(tmp_path).get()).document
    assert {} not in document["paths"]["/v1/models"]["get"]["security"]
    assert {} in document["paths"]["/fly/v1/models"]["get"]["security"]


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
async def test_no_money_is_shown_under_the_dialects_own_status(dialect: str, tmp_path: Path):
    """Statuses and bodies are learnt from the dialect itself."""
    text = f"surfaces: [{{prefix: /v1, dialect: {dialect}}}]"
    document = (await documents(tmp_path, text).get()).document
    status = DIALECTS[dialect].statuses[Code.INSUFFICIENT_CREDITS]
    said = document["paths"]["/v1/chat/completions"]["post"]["responses"][str(status)]
    assert "insufficient_credits" in said["description"]
    name = said["$ref"].rpartition("/")[2]
    assert (
        "insufficient_credits" in document["components"]["responses"][name]["content"]["application/json"]["examples"]
    )


async def test_the_document_is_valid(tmp_path: Path):
    """As OpenAPI 3.1, and every reference leads somewhere."""
    written = await documents(tmp_path).get()
    schemathesis.openapi.from_dict(written.document).validate()
    schemas = written.document["components"]["schemas"]
    for piece in written.text.decode().split('"#/components/schemas/')[1:]:
        assert piece.partition('"')[0] in schemas


async def test_the_page_shows_what_a_config_says_as_text(tmp_path: Path):
    """Nothing that a file puts into the document becomes a part of the page."""
    document = (await documents(tmp_path).get()).document
    hostile = {**document, "servers": [{"url": "https://a.example/<script>alert(1)</script>"}]}
    shown = page(hostile)
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown


async def test_a_changed_config_is_described_at_once(tmp_path: Path):
    """And as long as it stays the same, the document is not written again."""
    path = tmp_path / "tollbridge.yaml"
    path.write_text(SURFACES)
    configs = [parse(read(path), {})]
    public, own = sites(configs[0])
    found = Documents(config=lambda: configs[-1], public=public, own=own, hot=hot_descriptions())
    first = await found.get()
    assert await found.get() is first
    path.write_text("surfaces: [{prefix: /v2, dialect: openai}]")
    configs.append(parse(read(path), {}))
    assert "/v2/models" in (await found.get()).document["paths"]
    assert "/v1/models" not in (await found.get()).document["paths"]
