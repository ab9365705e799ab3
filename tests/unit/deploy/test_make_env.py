"""What `deploy/compose/make_env.py` writes for docker-compose.yml."""

import re
import stat
import subprocess
import sys
import uuid
from pathlib import Path

from chassis.callers import Callers, parse_tokens
from deploy.compose import make_env

ROOT = Path(__file__).resolve().parents[3]


def write(file: Path, *options: str) -> dict[str, str]:
    """Runs it and reads what the file says then."""
    subprocess.run([sys.executable, str(ROOT / "deploy/compose/make_env.py"), *options, str(file)], check=True)
    return make_env.read(file.read_text())


def test_every_variable_that_must_be_given_is_written(tmp_path: Path) -> None:
    """The compose file refuses to start without some of them; all of those are there, in a file of its owner alone."""
    must = set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text()))
    given = write(tmp_path / "env")
    assert must <= {name for name, value in given.items() if value}
    assert stat.S_IMODE((tmp_path / "env").stat().st_mode) == 0o600


def called(given: dict[str, str]) -> set[str]:
    """Whom a service that is told `given` takes for whom they say they are."""
    callers = Callers(parse_tokens(given["TOLLBRIDGE_SERVICE_TOKENS"]))
    own = [given[make_env.variable(name)] for name in make_env.CALLERS]
    return {callers.name({"authorization": f"Bearer {token}"}, None) for token in own}


def test_services_accept_each_other_without_knowing_each_others_secrets(tmp_path: Path) -> None:
    """Each caller is known by a hash, and the default customer's id is one."""
    given = write(tmp_path / "env")
    assert called(given) == set(make_env.CALLERS)
    secrets = [given[make_env.variable(name)].partition(":")[2] for name in make_env.CALLERS]
    assert not any(secret in given["TOLLBRIDGE_SERVICE_TOKENS"] for secret in secrets)
    assert uuid.UUID(given["TOLLBRIDGE_DEFAULT_CUSTOMER_ID"])


def test_every_user_of_nats_has_a_password(tmp_path: Path) -> None:
    """That begins with a letter: what may be read as a number would be one."""
    wanted = set(re.findall(r"\$(TOLLBRIDGE_\w+)", (ROOT / "deploy" / "nats" / "users.conf").read_text()))
    given = write(tmp_path / "env")
    assert wanted == {name for name in given if name.startswith("TOLLBRIDGE_NATS_")}
    assert all(given[name][0].isalpha() for name in wanted)


def test_what_is_written_once_stays(tmp_path: Path) -> None:
    """A second run changes nothing, an empty value is a decision, and what is missing comes without touching it."""
    file = tmp_path / "env"
    write(file)
    lines = [line for line in file.read_text().splitlines() if not line.startswith(("GRAFANA", "TOLLBRIDGE_DEFAULT"))]
    file.write_text("\n".join([*lines, "TOLLBRIDGE_DEFAULT_CUSTOMER_ID=", "MINE=1"]))
    before = make_env.read(file.read_text())
    after = write(file)
    assert after.pop("GRAFANA_PASSWORD")
    assert after == before
    assert write(file) == make_env.read(file.read_text())


def test_a_caller_that_comes_later_is_accepted(tmp_path: Path) -> None:
    """Its token is added, and those that are there keep theirs."""
    file = tmp_path / "env"
    first = write(file)
    file.write_text("".join(f"{name}={value}\n" for name, value in first.items() if name != "TOLLBRIDGE_CLI_TOKEN"))
    second = write(file)
    assert called(second) == set(make_env.CALLERS)
    changed = {name for name in first if first[name] != second[name]}
    assert changed == {"TOLLBRIDGE_CLI_TOKEN", "TOLLBRIDGE_SERVICE_TOKENS"}
    assert file.read_text().count("TOLLBRIDGE_SERVICE_TOKENS=") == 1


def test_watching_is_a_matter_of_one_option(tmp_path: Path) -> None:
    """It adds the profile and where traces go, also to a file that is there."""
    file = tmp_path / "env"
    plain = write(file)
    assert not set(make_env.OBSERVABILITY) & set(plain)
    assert write(file, "--observability") == plain | make_env.OBSERVABILITY
