"""Metrics name models, but never without end, whatever names callers make up below a wildcard."""

from prometheus_client import CollectorRegistry

from services.edge.metrics import MAX_PROVEN, MAX_UNPROVEN, UNKNOWN_MODEL, EdgeMetrics, ModelLabels


def test_names_that_never_answered_can_not_push_out_one_that_did() -> None:
    """Junk fills its own room; a model that answers is named all the same, and stays so when it fails later."""
    labels = ModelLabels()
    junk = {labels.of(f"openai/junk-{number}") for number in range(10 * MAX_UNPROVEN)}
    assert len(junk) == MAX_UNPROVEN + 1
    assert labels.of("openai/real") == UNKNOWN_MODEL
    assert labels.of("openai/real", proven=True) == "openai/real"
    assert labels.of("openai/real") == "openai/real"


def test_there_is_an_end_to_names_that_answer_too() -> None:
    """What comes later is `other`."""
    labels = ModelLabels()
    found = {labels.of(f"m{number}", proven=True) for number in range(10 * MAX_PROVEN)}
    assert len(found) <= MAX_PROVEN + MAX_UNPROVEN + 1


def test_the_series_of_edge_are_bounded() -> None:
    """By those labels, in every metric that has a model."""
    registry = CollectorRegistry()
    metrics = EdgeMetrics(registry=registry)
    for number in range(3 * MAX_UNPROVEN):
        metrics.request(model=f"m{number}", status=502, seconds=1)
        metrics.first_byte(model=f"m{number}", seconds=1)
        metrics.tokens(model=f"m{number}", prompt=1, completion=1)
        metrics.money(model=f"m{number}", provider="p", charge_nano_usd=1, cost_nano_usd=1)
    named = {
        sample.labels["model"] for metric in registry.collect() for sample in metric.samples if "model" in sample.labels
    }
    assert len(named) == MAX_UNPROVEN + 1
