"""Settings: every problem in one error, no value in any."""

from pathlib import Path

import pytest

from chassis.settings import ServiceSettings, SettingsError, load


class Settings(ServiceSettings, frozen=True, kw_only=True):
    service_name: str = "auth"
    http_bind: str
    key_peppers: str = ""
    workers: int = 1
    data_dir: Path = Path("data")
    eager: bool = False

    def __post_init__(self) -> None:
        if self.workers > 64:
            raise ValueError("TOLLBRIDGE_WORKERS is above 64")


def test_variables_become_typed_fields() -> None:
    """Numbers, booleans and paths are read from their text; an empty variable is an unset one."""
    got = load(
        Settings,
        {
            "TOLLBRIDGE_HTTP_BIND": ":1",
            "TOLLBRIDGE_WORKERS": "3",
            "TOLLBRIDGE_DATA_DIR": "/d",
            "TOLLBRIDGE_EAGER": "true",
            "TOLLBRIDGE_DRAIN_GRACE_S": "",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel",
        },
    )
    assert (got.http_bind, got.workers, got.data_dir, got.eager) == (":1", 3, Path("/d"), True)
    assert (got.service_name, got.drain_grace_s, got.otlp_endpoint) == ("auth", 30.0, "http://otel")


def test_every_problem_is_named_at_once_without_its_value() -> None:
    """An operator mends all in one go, and a secret put into the wrong variable is not printed."""
    with pytest.raises(SettingsError) as caught:
        load(Settings, {"TOLLBRIDGE_WORKERS": "s3cret", "TOLLBRIDGE_EAGER": "s3cret"})
    text = str(caught.value)
    assert all(name in text for name in ("TOLLBRIDGE_HTTP_BIND", "TOLLBRIDGE_WORKERS", "TOLLBRIDGE_EAGER"))
    assert "s3cret" not in text


def test_a_rule_over_fields_is_a_settings_error_too() -> None:
    """A service's own check ends the same way."""
    with pytest.raises(SettingsError, match="above 64"):
        load(Settings, {"TOLLBRIDGE_HTTP_BIND": "x", "TOLLBRIDGE_WORKERS": "65"})


def test_repr_hides_secrets() -> None:
    """Settings may stand in a log or a traceback."""
    secrets = {"SERVICE_TOKEN": "edge:s3cret", "KEY_PEPPERS": "1:s3cret", "DATABASE_URL": "postgresql://u:s3cret@h"}
    environ = {f"TOLLBRIDGE_{name}": value for name, value in secrets.items()}
    got = load(Settings, {"TOLLBRIDGE_HTTP_BIND": ":1", **environ})
    assert "s3cret" not in repr(got)
    assert "':1'" in repr(got)


def test_a_short_wrong_value_leaves_the_words_of_the_message_alone() -> None:
    """The value is hidden as such, not each of its letters."""
    with pytest.raises(SettingsError, match=r"TOLLBRIDGE_DRAIN_GRACE_S: Expected `float`"):
        load(ServiceSettings, {"TOLLBRIDGE_DRAIN_GRACE_S": "x"})
