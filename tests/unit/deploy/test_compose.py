"""docker-compose.yml: valid, bounded, without rights, and the same system as `make up`."""

import importlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from deploy.compose import make_env
from tests.unit.deploy.cluster import ROOT, tool

COMPOSE = ROOT / "deploy" / "compose"
WATCHING = ROOT / "deploy" / "observability"
SERVICES = ("edge", "auth", "router", "billing", "tasks")
ONE_SHOT = ("migrate", "demo")
WATCHERS = ("collector", "jaeger", "prometheus", "grafana")


def composed(folder: Path, *options: str) -> dict[str, Any]:
    """What docker compose makes of the file in that folder, with the secrets that make_env.py would write."""
    given = make_env.made({})
    inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    command = [tool("docker-compose"), "-f", str(folder / "docker-compose.yml"), "--env-file", os.devnull]
    command += [*options, "config", "--format", "json"]
    done = subprocess.run(command, env=inherited | given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    """The services as they are without a profile."""
    found: dict[str, Any] = composed(ROOT)["services"]
    return found


@pytest.fixture(scope="module")
def watched() -> dict[str, Any]:
    """All of them."""
    found: dict[str, Any] = composed(ROOT, "--profile", "observability")["services"]
    return found


def environment(service: dict[str, Any]) -> dict[str, str]:
    """Its variables."""
    return dict(service.get("environment") or {})


def test_what_watches_comes_only_with_its_profile(plain: dict[str, Any], watched: dict[str, Any]) -> None:
    """A collector, Jaeger, Prometheus and Grafana, and nothing else."""
    assert set(watched) - set(plain) == set(WATCHERS)


def test_it_is_the_system_of_make_up(plain: dict[str, Any]) -> None:
    """Five services, their servers, the schema, the demo customer, the nightly proof, and one address for all edges."""
    assert set(plain) == {*SERVICES, *ONE_SHOT, "nats", "postgres", "ledger-proof", "gateway"}


def test_every_container_is_bounded_and_without_rights(watched: dict[str, Any]) -> None:
    """Memory, processes and logs have bounds, the file system is read-only, and capabilities are gone."""
    for name, service in watched.items():
        assert int(service["mem_limit"]) <= (3 if name == "edge" else 1) * 2**30, name
        assert service["pids_limit"] <= 512, name
        assert {"max-size", "max-file"} <= set(service["logging"]["options"]), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged"), name
        assert not service.get("cap_add") or name == "postgres", name
        assert not any("docker.sock" in str(volume) for volume in service.get("volumes", [])), name


def test_images_have_versions(watched: dict[str, Any]) -> None:
    """None is `latest`, and those of others name their registry."""
    for name, service in watched.items():
        repository, _, tag = service["image"].rpartition(":")
        assert repository, name
        assert tag != "latest", name
        assert "build" in service or repository.startswith("docker.io/"), name


def test_what_is_published_listens_on_loopback(watched: dict[str, Any]) -> None:
    """And no scaled service publishes anything, or a second replica would find its port taken."""
    for service in watched.values():
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", []))
    assert not any(watched[name].get("ports") or "container_name" in watched[name] for name in SERVICES)


def test_databases_have_no_way_out(watched: dict[str, Any]) -> None:
    """NATS, PostgreSQL and what only they need live in a network that leads nowhere."""
    assert composed(ROOT)["networks"]["inside"]["internal"] is True
    for name in ("nats", "postgres", "ledger-proof", *ONE_SHOT, "collector"):
        assert set(watched[name]["networks"]) == {"inside"}, name


def test_our_images_are_built_from_the_recipes_service(plain: dict[str, Any]) -> None:
    """Each service's image is that of its name; the jobs are billing's."""
    for name, service in plain.items():
        if "build" not in service:
            continue
        assert service["build"]["target"] == "service"
        built = service["build"]["args"]["SERVICE"]
        assert service["image"].startswith(f"tollbridge/{built}:")
        assert built == (name if name in SERVICES else "billing")


@pytest.mark.parametrize("service", SERVICES)
def test_every_variable_is_a_setting(plain: dict[str, Any], service: str) -> None:
    """A TOLLBRIDGE_ variable is a field of that service's settings."""
    settings = importlib.import_module(f"services.{service}.settings").Settings
    fields = {"TOLLBRIDGE_" + field.name.upper() for field in msgspec.structs.fields(settings)}
    given = {name for name in environment(plain[service]) if name.startswith("TOLLBRIDGE_")}
    assert given <= fields


def test_only_those_who_are_called_know_who_may_call(plain: dict[str, Any]) -> None:
    """Edge serves no calls: it knows no secret but its own, and the database's password is none of its business."""
    knows = {name for name, each in plain.items() if "TOLLBRIDGE_SERVICE_TOKENS" in environment(each)}
    assert knows == {"auth", "router", "billing", "tasks"}
    assert "TOLLBRIDGE_DATABASE_URL" not in environment(plain["edge"])
    assert {environment(plain[name])["TOLLBRIDGE_SERVICE_TOKEN"].partition(":")[0] for name in SERVICES} == set(
        SERVICES
    )


def test_addresses_are_names_of_this_file(plain: dict[str, Any]) -> None:
    """What a service is told to call is there, on the port that its image binds."""
    for name, service in plain.items():
        for variable, value in environment(service).items():
            if variable.endswith("_ADDRESSES"):
                host, _, port = value.partition(":")
                assert (host, port) == (variable.removeprefix("TOLLBRIDGE_").split("_")[0].lower(), "9000"), name
                assert host in plain


@pytest.mark.parametrize("service", [*SERVICES, "gateway"])
def test_nothing_starts_before_what_it_needs(plain: dict[str, Any], service: str) -> None:
    """The schema before services, a healthy edge and the demo customer before the address is there."""
    waits = {name: each["condition"] for name, each in plain[service]["depends_on"].items()}
    wanted = {"edge": "service_healthy", "demo": "service_completed_successfully"}
    if service in SERVICES:
        wanted = {"migrate": "service_completed_successfully", "nats": "service_healthy"}
    assert waits == wanted


def test_jobs_that_end_well_are_waited_for_by_somebody(plain: dict[str, Any]) -> None:
    """`up --wait` takes an end for a failure unless another service waits for just that."""
    for job in ONE_SHOT:
        assert plain[job]["restart"] == "no"
        waiting = [each["depends_on"][job]["condition"] for each in plain.values() if job in each.get("depends_on", {})]
        assert "service_completed_successfully" in waiting


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_has_time_for_its_whole_drain(plain: dict[str, Any], service: str) -> None:
    """It is killed only when the process would have ended its drain by itself."""
    from chassis.lifecycle import DRAIN_LIMIT_S, DRAIN_MARGIN_S
    from chassis.settings import load
    from services.edge.settings import Settings

    takes_s = DRAIN_LIMIT_S
    if service == "edge":
        own = load(Settings, environment(plain["edge"]))
        takes_s = own.drain_announce_s + own.drain_grace_s + DRAIN_MARGIN_S
    assert seconds(plain[service]["stop_grace_period"]) >= takes_s


def seconds(text: str) -> float:
    """`10m40s` as a number."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)([hms])", text))


@pytest.mark.parametrize("service", ["router", "billing", "edge"])
def test_what_the_config_refers_to_reaches_the_service_that_owns_it(service: str, tmp_path: Path) -> None:
    """A `${STRIPE_SECRET_KEY}` of the config comes from a file of that service alone, which need not be."""
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    (tmp_path / f"{service}.env").write_text("STRIPE_SECRET_KEY=canary\n")
    services = composed(tmp_path)["services"]
    assert [name for name, each in services.items() if "STRIPE_SECRET_KEY" in environment(each)] == [service]


def test_the_config_is_that_of_make_up_behind_a_balancer() -> None:
    """The same models, plans and money; only whose word counts for an address is added."""
    own = yaml.safe_load((COMPOSE / "config" / "tollbridge.yaml").read_text())
    assert own.pop("trusted_proxies")
    assert own == yaml.safe_load((ROOT / "cli" / "up" / "builtin.yaml").read_text())


def test_a_changed_config_is_seen(plain: dict[str, Any]) -> None:
    """The folder is mounted: an editor replaces the file, and a mounted file would stay the old one."""
    for name in SERVICES:
        (config,) = (each for each in plain[name]["volumes"] if each["target"] == "/etc/tollbridge")
        assert Path(config["source"]).is_dir()
        assert config["read_only"] is True
        path = Path(environment(plain[name])["TOLLBRIDGE_CONFIG_PATH"])
        assert (Path(config["source"]) / path.name).is_file()


def test_mounted_files_are_there(watched: dict[str, Any]) -> None:
    """Docker would make an empty folder of a source that is missing."""
    for name, service in watched.items():
        for volume in service.get("volumes", []):
            assert volume["type"] == "volume" or Path(volume["source"]).exists(), (name, volume)


def test_traces_reach_jaeger(watched: dict[str, Any]) -> None:
    """From where make_env.py sends them, through the collector's only pipeline, to the port that Jaeger reads."""
    collector = yaml.safe_load((COMPOSE / "observability" / "collector.yaml").read_text())
    jaeger = yaml.safe_load((COMPOSE / "observability" / "jaeger.yaml").read_text())
    scheme, name, port = make_env.OBSERVABILITY["OTEL_EXPORTER_OTLP_ENDPOINT"].replace("//", "").split(":")
    assert (scheme, name) == ("http", "collector")
    assert collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"] == f"0.0.0.0:{port}"
    host, _, taken = collector["exporters"]["otlp_grpc"]["endpoint"].partition(":")
    assert host in watched
    assert jaeger["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"] == f"0.0.0.0:{taken}"
    for each in (collector, jaeger):
        pipeline = each["service"]["pipelines"]["traces"]
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline.get(kind, [])) == set(each.get(kind, {})), (
                "all that is described is used, and the reverse"
            )
    assert jaeger["extensions"]["jaeger_storage"]["backends"]["newest"]["memory"]["max_traces"] <= 50_000


def test_every_service_is_measured() -> None:
    """Prometheus finds each by its name, as the example of deploy/observability does, and has our rules."""
    own = yaml.safe_load((COMPOSE / "observability" / "prometheus.yaml").read_text())
    (job,) = own["scrape_configs"]
    example = yaml.safe_load((WATCHING / "prometheus.yaml").read_text())["scrape_configs"]
    assert job in example
    (found,) = job["dns_sd_configs"]
    assert (set(found["names"]), found["port"]) == (set(SERVICES), 9090)


def test_grafana_has_our_dashboards_and_what_they_ask(watched: dict[str, Any]) -> None:
    """Every data source is a service of the file on its own port, and the folder that it reads holds the dashboards."""
    provisioned = COMPOSE / "observability" / "grafana"
    sources = yaml.safe_load((provisioned / "datasources" / "tollbridge.yaml").read_text())["datasources"]
    assert [each["type"] for each in sources if each.get("isDefault")] == ["prometheus"]
    for each in sources:
        host, port = re.fullmatch(r"http://(\w+):(\d+)", each["url"]).groups()  # type: ignore[union-attr]  # it has to
        assert int(port) in {published["target"] for published in watched[host]["ports"]}
    (provider,) = yaml.safe_load((provisioned / "dashboards" / "tollbridge.yaml").read_text())["providers"]
    mounted = {each["target"]: each["source"] for each in watched["grafana"]["volumes"]}
    boards = [json.loads(file.read_text()) for file in Path(mounted[provider["options"]["path"]]).glob("*.json")]
    assert len({board["uid"] for board in boards}) == len(boards) >= 4


def test_what_watches_holds_no_more_than_its_bound(watched: dict[str, Any]) -> None:
    """Prometheus forgets by age and by size."""
    told = " ".join(watched["prometheus"]["command"])
    assert "--storage.tsdb.retention.time=" in told
    assert "--storage.tsdb.retention.size=" in told


ERROR = re.compile(r"http-error status (\d+) content-type application/json string '(.*)'( hdr Retry-After \d+)?$")


def test_the_balancers_own_errors_are_read_by_sdks() -> None:
    """OpenAI's object and Anthropic's in one, with codes that edge uses; who may try again at once is told when."""
    from chassis.errors import Code

    lines = (COMPOSE / "haproxy.cfg").read_text().splitlines()
    found = [match for line in lines if (match := ERROR.search(line.strip()))]
    assert {int(match[1]) for match in found} >= {502, 503, 504}
    for match in found:
        body = json.loads(match[2])
        assert body["type"] == "error"
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert Code(body["error"]["code"])
        assert (match[3] is not None) == (match[1] == "503")


def test_the_balancer_repeats_no_request_that_an_edge_may_have_seen() -> None:
    """Only connections that failed are tried again; all edges of the scale test fit."""
    text = (COMPOSE / "haproxy.cfg").read_text()
    assert re.findall(r"^\s*retry-on (.*?)\s*(?:#.*)?$", text, re.MULTILINE) == ["conn-failure"]
    assert "option redispatch" in text
    assert "httpchk GET /readyz" in text
    slots = re.search(r"server-template edge 1-(\d+) edge:8080", text)
    assert slots is not None
    assert int(slots[1]) >= 8


def test_the_balancer_is_more_patient_than_an_edge() -> None:
    """What a provider or a reader may take is edge's to judge: nobody is cut who would have been served."""
    from services.edge.http.unread import TIMEOUT_S
    from services.router.config_sections import TimeoutsSection

    timeouts = dict(
        re.findall(r"^\s*timeout (client|server) (\d+)s", (COMPOSE / "haproxy.cfg").read_text(), re.MULTILINE)
    )
    assert float(timeouts["client"]) > TIMEOUT_S
    assert float(timeouts["server"]) > TimeoutsSection().total


def test_nats_knows_each_of_its_clients(plain: dict[str, Any], tmp_path: Path) -> None:
    """Each comes as a user of its own, with the password that NATS is told; the server reads the mounted file."""
    told = environment(plain["nats"])
    urls = {name: environment(each).get("TOLLBRIDGE_NATS_URL", "") for name, each in plain.items()}
    users = {name: "proof" if name == "ledger-proof" else name for name, url in urls.items() if url}
    assert set(users) == {"auth", "billing", "edge", "tasks", "ledger-proof"}
    for name, user in users.items():
        assert urls[name] == f"nats://{user}:{told[f'TOLLBRIDGE_NATS_{user.upper()}_PASSWORD']}@nats:4222"
    config = Path(plain["nats"]["command"][-1])
    (mounted,) = (each for each in plain["nats"]["volumes"] if each["target"] == str(config.parent))
    command = [tool("nats-server"), "-t", "--config", str(Path(mounted["source"]) / config.name)]
    done = subprocess.run(command, env=told, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nats_keeps_what_it_has_acknowledged(plain: dict[str, Any]) -> None:
    """As with `tollbridge up`, it syncs before it answers, on the volume that is kept."""
    text = (ROOT / "deploy" / "nats" / Path(plain["nats"]["command"][-1]).name).read_text()
    assert "sync_interval: always" in text
    (kept,) = (each["target"] for each in plain["nats"]["volumes"] if each["type"] == "volume")
    assert f"store_dir: {kept}\n" in text
    assert "http_port: 8222" in text
    assert "127.0.0.1:8222/healthz" in " ".join(plain["nats"]["healthcheck"]["test"])
