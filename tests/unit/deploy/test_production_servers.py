"""The servers beside the services in production: PostgreSQL, which is elsewhere, and a NATS cluster of three."""

import configparser
import inspect
import os
import re
import subprocess
from pathlib import Path

from chassis import db
from chassis.settings import load
from services.billing import events as billing_events
from services.billing.settings import Settings
from services.tasks import events as tasks_events
from tests.unit.deploy.cluster import Manifest, containers, label, manifests, template, tool, workloads
from tests.unit.deploy.site import (
    OWNERS_OF_TABLES,
    README,
    of_kind,
    one,
    running,
    variables,
)

GIB = 1 << 30


def budget(site: list[Manifest]) -> dict[str, tuple[int, int, int, int]]:
    """Of each workload with a pool: replicas at most, those in a rollout, connections of each, and of all."""
    tops = {name: each["spec"]["maxReplicas"] for name, each in of_kind(site, "HorizontalPodAutoscaler").items()}
    tops |= {name: each["spec"]["maxReplicaCount"] for name, each in of_kind(site, "ScaledObject").items()}
    pool = inspect.signature(db.open_pool).parameters["max_size"].default
    found = {}
    for name in OWNERS_OF_TABLES:
        workload = running(site)[name]
        most = tops.get(name) or workload["spec"]["replicas"]
        surging = most + int(workload["spec"]["strategy"]["rollingUpdate"]["maxSurge"])
        each = int(variables(workload).get("TOLLBRIDGE_DATABASE_CONNECTIONS", pool))
        found[name] = (most, surging, each, surging * each)
    return found


def most_connections() -> int:
    """What PostgreSQL is to allow."""
    (found,) = re.findall(r"max_connections = (\d+)", README)
    return int(found)


def test_all_replicas_fit_into_postgresql(site: list[Manifest]) -> None:
    """The table of the README is what the manifests say, and leaves twenty connections to others."""
    found = budget(site)
    lines = re.findall(r"^\| ([\w-]+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", README, re.MULTILINE)
    assert {name: tuple(map(int, numbers)) for name, *numbers in lines} == found
    total = sum(connections for *_, connections in found.values())
    assert f"\n{total} in all" in README
    assert total <= most_connections() - 20


def test_pgbouncer_has_room_for_all_and_lets_few_through(site: list[Manifest]) -> None:
    """It takes every connection of the services, and with one more process in a rollout PostgreSQL has few."""
    workload = running(site)["pgbouncer"]
    (name,) = (each for each in of_kind(site, "ConfigMap") if each.startswith("pgbouncer-config-"))
    text = of_kind(site, "ConfigMap")[name]["data"]["pgbouncer.ini"]
    config = configparser.ConfigParser(comment_prefixes=(";", "%"), interpolation=None)
    config.read_string(text)
    own = config["pgbouncer"]
    assert own["pool_mode"] == "transaction"
    assert own.getint("max_client_conn") >= sum(connections for *_, connections in budget(site).values())
    processes = workload["spec"]["replicas"] + workload["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    held = len(set(OWNERS_OF_TABLES.values())) * own.getint("default_pool_size") * processes
    assert f"hold {held}," in README
    assert held <= most_connections() - 20
    assert own.getfloat("query_wait_timeout") <= 1  # callers hear 503, they don't hang
    container = template(workload)["spec"]["containers"][0]
    assert own.getint("listen_port") == container["ports"][0]["containerPort"]
    mounts = {each["mountPath"] for each in container["volumeMounts"]}
    assert {str(Path(path).parent) for path in re.findall(r"/etc/[\w./-]+", text)} <= mounts
    assert container["command"][1].startswith("/etc/pgbouncer/")


def test_only_services_go_through_pgbouncer(site: list[Manifest], prod: list[Manifest]) -> None:
    """Migrations and proofs need sessions; without the component nobody is told of it."""
    through = {name for name, each in workloads(site).items() if "TOLLBRIDGE_DATABASE_POOLER" in variables(each)}
    assert through == OWNERS_OF_TABLES.keys()
    assert not [each for each in workloads(prod).values() if "TOLLBRIDGE_DATABASE_POOLER" in variables(each)]
    (rule,) = one(site, "NetworkPolicy", "pgbouncer")["spec"]["ingress"]
    assert set(rule["from"][0]["podSelector"]["matchExpressions"][0]["values"]) == through
    past = one(site, "NetworkPolicy", "postgres-clients")["spec"]["podSelector"]["matchExpressions"][0]["values"]
    assert set(past) == {"migrate", "ledger-proof"}  # a service can't go round it


def test_each_service_logs_in_by_itself(prod: list[Manifest]) -> None:
    """With a URL of its own, which the migration is given, too, to make its user; PostgreSQL itself is elsewhere."""
    migrations = [each for each in workloads(prod).values() if label(each) == "migrate"]
    for name, service in OWNERS_OF_TABLES.items():
        wanted = {"secretKeyRef": {"name": "tollbridge-secrets", "key": f"{service}-database-url"}}
        assert variables(running(prod)[name])["TOLLBRIDGE_DATABASE_URL"] == wanted
        for each in migrations:
            assert variables(each)[f"TOLLBRIDGE_{service.upper()}_DATABASE_URL"] == wanted
            assert variables(each)["TOLLBRIDGE_DATABASE_URL"]["secretKeyRef"]["key"] == "database-url"
        assert f"`{service}-database-url`" in README
    assert migrations
    assert not [each for each in containers(prod) if "postgres" in each[1]["image"]]


def test_whoever_speaks_to_postgresql_can_check_who_it_is(prod: list[Manifest]) -> None:
    """The file that the URLs name is mounted wherever there is such a URL, and nowhere else; its secret need not be."""
    (path,) = set(re.findall(r"sslrootcert=(/[\w./-]+)", README))
    for each in workloads(prod).values():
        pod = template(each)["spec"]
        mounted = {
            it["name"] for it in pod["containers"][0]["volumeMounts"] if it["mountPath"] == str(Path(path).parent)
        }
        assert bool(mounted) == ("TOLLBRIDGE_DATABASE_URL" in variables(each))
        found = [it["secret"] for it in pod.get("volumes", ()) if it["name"] in mounted]
        assert found == [{"secretName": "tollbridge-postgresql-ca", "optional": True}] * len(mounted)
    assert "`tollbridge-postgresql-ca`" in README


def nats_config(objects: list[Manifest]) -> str:
    """The file of the servers, found by what the pod mounts."""
    (volume,) = (
        each for each in template(running(objects)["nats"])["spec"]["volumes"] if each["name"] == "nats-config"
    )
    found: str = one(objects, "ConfigMap", volume["configMap"]["name"])["data"]["nats.conf"]
    return found


def test_three_servers_find_each_other_before_they_are_ready(prod: list[Manifest], tmp_path: Path) -> None:
    """A route to each of them, by a service that has pods which aren't ready; nats-server accepts the file."""
    nats = running(prod)["nats"]
    assert nats["spec"]["replicas"] == 3
    assert nats["spec"]["podManagementPolicy"] == "Parallel"
    routes = one(prod, "Service", nats["spec"]["serviceName"])
    assert routes["spec"]["publishNotReadyAddresses"] is True
    assert routes["spec"]["clusterIP"] == "None"
    (port,) = routes["spec"]["ports"]
    text = nats_config(prod)
    hosts = [f"nats://nats-{n}.{routes['metadata']['name']}:{port['port']}" for n in range(3)]
    assert re.findall(r"nats://\S+", text) == hosts
    path = tmp_path / "nats.conf"
    path.write_text(text)
    command = [tool("nats-server"), "-t", "-c", str(path)]
    environment = {**os.environ, "POD_NAME": "nats-0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "POD_NAME" in variables(nats)


def reserved_bytes(site: list[Manifest]) -> int:
    """By all streams, as large as billing is told there."""
    told = {name: each for name, each in variables(running(site)["billing"]).items() if "_STREAM_" in name}
    assert {f"TOLLBRIDGE_{name}_STREAM_BYTES" for name in ("USAGE", "LEDGER")} <= told.keys()
    streams = billing_events.sized(load(Settings, told))
    return sum(each.max_bytes for each in (*streams, tasks_events.TASKS))


def test_streams_are_kept_by_all_three_and_fit(prod: list[Manifest]) -> None:
    """Who makes streams and buckets wants three replicas, and what they reserve leaves room in store and volume."""
    makers = {name for name, each in running(prod).items() if "TOLLBRIDGE_STREAM_REPLICAS" in variables(each)}
    assert makers == {"edge", "billing", "tasks", "tasks-worker"}
    assert {variables(running(prod)[name])["TOLLBRIDGE_STREAM_REPLICAS"] for name in makers} == {"3"}
    reserved = reserved_bytes(prod)
    (store,) = re.findall(r"max_file_store: (\d+)GB", nats_config(prod))
    (claim,) = running(prod)["nats"]["spec"]["volumeClaimTemplates"]
    volume = int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi"))
    assert 2 * reserved <= int(store) * GIB <= 0.85 * volume * GIB


def test_streams_fit_into_the_store_of_one_server() -> None:
    """In `dev`, too, one that doesn't fit would never be made; a third is left for buckets."""
    dev = manifests("overlays/dev")
    (store,) = re.findall(r"max_file_store: (\d+)GB", nats_config(dev))
    assert reserved_bytes(dev) <= int(store) * GIB * 2 / 3


def test_a_server_that_leaves_sends_its_clients_away_first(prod: list[Manifest]) -> None:
    """The pod's end waits for lame duck mode, whose process is found by the file that the config names."""
    pod = template(running(prod)["nats"])["spec"]
    text = nats_config(prod)
    (pid_file,) = re.findall(r"pid_file: (\S+)", text)
    hook = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert hook == ["nats-server", f"-sl=ldm={pid_file}"]
    takes_s = sum(int(each) for each in re.findall(r"lame_duck_\w+: (\d+)s", text))
    assert pod["terminationGracePeriodSeconds"] > takes_s
    assert str(Path(pid_file).parent) in {each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}


def test_only_servers_of_nats_speak_to_each_other(prod: list[Manifest]) -> None:
    """The port of the cluster is open to them, and to nobody else."""
    (port,) = one(prod, "Service", "nats-routes")["spec"]["ports"]
    opened = [
        rule
        for each in of_kind(prod, "NetworkPolicy").values()
        for rule in each["spec"].get("ingress", ())
        for it in rule.get("ports", ())
        if it["port"] in (port["port"], port["targetPort"])
    ]
    assert [rule["from"] for rule in opened] == [[{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "nats"}}}]]
