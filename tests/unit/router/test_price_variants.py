"""Prices by size and quality: each a version of its own, at cost and price alike, or refused."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from chassis.config import ConfigError, read
from pricing.prices import PriceVersion
from services.router.config import parse
from services.router.registry import Registry

HEAD = 'providers: [{id: p, protocol: openai, base_url: "https://x.test/v1", accounts: [{id: a, api_key: k}]}]\n'


def registry(tmp_path: Path, *, cost: str, price: str, category: str = "image") -> Registry:
    path = tmp_path / "c.yaml"
    route = f"{{provider: p, model: m, cost: {cost}}}"
    path.write_text(f"{HEAD}models: [{{id: m, category: {category}, routes: [{route}], price: {price}}}]\n")
    return parse(read(path), {}).registry


def prices(found: Registry) -> Mapping[str, PriceVersion]:
    model = found.find("m")
    assert model is not None
    assert model.current_price is not None
    return {"default": model.current_price, **dict(model.current_variants)}


def test_each_size_and_quality_has_a_price_of_its_own(tmp_path: Path) -> None:
    """What one table leaves out is what fits best in it; every version can be found by its id."""
    found = registry(
        tmp_path,
        cost='{per_image: {default: 0.03, "1024x1024/hd": 0.06, hd: 0.05}}',
        price='{per_image: {default: 0.04, "1024x1024/hd": 0.08, "1792x1024": 0.07}}',
    )
    shown = {name: (each.rates.per_image, each.cost.per_image) for name, each in prices(found).items()}
    assert shown == {
        "default": (40_000_000, 30_000_000),
        "1024x1024/hd": (80_000_000, 60_000_000),
        "1792x1024": (70_000_000, 30_000_000),
        "hd": (40_000_000, 50_000_000),
    }
    assert {each.id for each in prices(found).values()} <= set(found.price_versions)


def test_a_markup_is_over_each_cost(tmp_path: Path) -> None:
    """Of a video by the second, too."""
    cost = '{per_second: {default: 0.10, "1024x1792": 0.50}}'
    found = prices(registry(tmp_path, cost=cost, price="{markup: 1.2}", category="video"))
    assert found["1024x1792"].rates.per_minute == 30_000_000_000
    assert {each.markup_ppm for each in found.values()} == {1_200_000}


def test_a_plain_price_has_no_variants(tmp_path: Path) -> None:
    """And the id that it always had."""
    found = registry(tmp_path, cost="{per_image: 0.03}", price="{per_image: 0.04}")
    assert list(prices(found)) == ["default"]
    assert len(found.price_versions) == 2  # the route's, and the list's


@pytest.mark.parametrize(
    ("cost", "price"),
    [
        ("{per_image: 0.1}", '{per_image: {"1024x1024": 0.04}}'),
        ("{per_image: {hd: 0.1}}", "{per_image: 0.2}"),
        ("{per_image: 0.1}", '{per_image: {default: 0.04, "1024": 0.1}}'),
        ("{per_image: 0.1}", '{per_image: {default: 0.04, "HD": 0.1}}'),
        ("{per_image: 0.1}", "{per_image: {default: 0.04, hd: -1}}"),
        ("{per_image: 0.1}", "{per_image: {}}"),
    ],
)
def test_a_table_that_leaves_a_price_open_is_refused(tmp_path: Path, cost: str, price: str) -> None:
    """Nothing is sold at an unknown price."""
    with pytest.raises(ConfigError, match="per_image"):
        registry(tmp_path, cost=cost, price=price)
