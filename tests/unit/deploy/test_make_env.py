"""What `deploy/compose/make_env.py` writes for docker-compose.yml."""

import re
import stat
import subprocess
import sys
import uuid
from pathlib import Path

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


def test_services_accept_each_others_tokens(tmp_path: Path) -> None:
    """Each caller's own token is one of those that are accepted, and the default customer's id is one."""
    given = write(tmp_path / "env")
    own = {given[f"TOLLBRIDGE_{name.upper()}_TOKEN"] for name in make_env.CALLERS}
    assert own == set(given["TOLLBRIDGE_SERVICE_TOKENS"].split(","))
    assert uuid.UUID(given["TOLLBRIDGE_DEFAULT_CUSTOMER_ID"])


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


def test_a_lost_token_is_the_one_that_is_accepted(tmp_path: Path) -> None:
    """A caller that comes with a newer compose file and was accepted already is given the same secret."""
    file = tmp_path / "env"
    first = write(file)
    file.write_text("".join(f"{name}={value}\n" for name, value in first.items() if name != "TOLLBRIDGE_CLI_TOKEN"))
    assert write(file) == first


def test_watching_is_a_matter_of_one_option(tmp_path: Path) -> None:
    """It adds the profile and where traces go, also to a file that is there."""
    file = tmp_path / "env"
    plain = write(file)
    assert not set(make_env.OBSERVABILITY) & set(plain)
    assert write(file, "--observability") == plain | make_env.OBSERVABILITY
