"""Which configuration runs, as the metrics tell it."""

from prometheus_client import CollectorRegistry

from chassis.config_state import ConfigCollector, ConfigState


def test_the_metrics_follow_the_running_config() -> None:
    """The hash as a label, and 1 for as long as the file is refused."""
    states = [ConfigState(hash="one")]
    registry = CollectorRegistry()
    registry.register(ConfigCollector(lambda: states[-1]))
    assert registry.get_sample_value("tollbridge_config_in_use", {"hash": "one"}) == 1
    assert registry.get_sample_value("tollbridge_config_refused") == 0
    states.append(ConfigState(hash="one", error="line 7: no"))
    assert registry.get_sample_value("tollbridge_config_refused") == 1


def test_without_a_file_there_is_an_empty_hash() -> None:
    """And nothing is refused."""
    assert ConfigState.of(None) == ConfigState(hash="", loaded_at_us=0, error="")
