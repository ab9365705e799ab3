"""What runs in production: how many, how they are watched, the way in, and what is left of an edge that is gone."""

import importlib
import json
import math
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import jsonschema
import msgspec
import pytest
import yaml

from services.edge.bodies.transcription_request import MAX_FORM_BYTES
from services.edge.routes import receipt_keys
from services.router.config_sections import TimeoutsSection
from services.tasks.making.kinds import KINDS as KINDS_OF_JOBS
from tests.unit.deploy import test_cluster, test_who_calls_whom
from tests.unit.deploy.cluster import ROOT, Manifest, label, manifests, template, tool, workloads
from tests.unit.deploy.site import OWNERS_OF_TABLES, README, of_kind, one, running, selects, variables

SCHEMAS = Path(__file__).parent / "schemas"


@pytest.mark.parametrize(
    "promise",
    [
        test_cluster.test_no_pod_may_more_than_it_needs,
        test_cluster.test_the_namespace_enforces_it,
        test_cluster.test_every_container_is_bounded,
        test_cluster.test_every_image_is_a_version_that_is_never_latest,
        test_cluster.test_secrets_come_by_reference,
        test_cluster.test_a_changed_config_reaches_pods_that_run,
    ],
)
def test_components_keep_what_the_base_promises(
    promise: Callable[[list[Manifest]], None], site: list[Manifest]
) -> None:
    """A site with all of them is as bounded and as unprivileged as the base."""
    promise(site)


def test_a_site_and_the_replay_fit_the_schemas(site: list[Manifest], replay: list[Manifest], tmp_path: Path) -> None:
    """Strictly: those of Kubernetes, and our own for what others define."""
    ours = {path.stem: json.loads(path.read_text()) for path in SCHEMAS.glob("*.json")}
    assert {each["kind"] for each in site} >= ours.keys()
    for each in site:
        if each["kind"] in ours:
            jsonschema.Draft202012Validator(ours[each["kind"]]).validate(each)
    path = tmp_path / "built.yaml"
    path.write_text(yaml.safe_dump_all([each for each in (*site, *replay) if each["kind"] not in ours]))
    command = [tool("kubernetes-validate"), "--strict", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARN" not in done.stdout + done.stderr  # a kind without a schema


@pytest.mark.parametrize(
    "promise",
    [
        test_who_calls_whom.test_policies_let_pass_the_arrows_of_the_table_and_no_others,
        test_who_calls_whom.test_both_ends_of_an_arrow_let_it_pass,
        test_who_calls_whom.test_everything_else_is_kept_in_and_out,
        test_who_calls_whom.test_pods_are_told_of_those_they_call_and_of_nobody_else,
    ],
)
def test_production_opens_two_doors_more_than_the_base(
    promise: Callable[[list[Manifest]], None], prod: list[Manifest]
) -> None:
    """Between the servers of NATS, and for operators; else it is the arrows of ARCHITECTURE.md, as everywhere."""
    added = of_kind(prod, "NetworkPolicy").keys() - of_kind(manifests("base"), "NetworkPolicy").keys()
    assert added == {"nats-cluster", "edge-admin"}
    promise([each for each in prod if each["kind"] != "NetworkPolicy" or each["metadata"]["name"] not in added])


@pytest.mark.parametrize("kind", ["ScaledObject", "ServiceMonitor"])
def test_our_schemas_refuse_a_misspelling(kind: str, site: list[Manifest]) -> None:
    """A field that isn't there in the API is an error, as it would be for Kubernetes' own kinds."""
    schema = json.loads((SCHEMAS / f"{kind}.json").read_text())
    for wrong in ("spec", "metadata"):
        found = json.loads(json.dumps(one(site, kind, "tasks-worker" if kind == "ScaledObject" else "tollbridge")))
        found[wrong] = {} if wrong == "metadata" else found[wrong] | {"maxReplicas": 3}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(schema).validate(found)


@pytest.mark.parametrize("workload", [*OWNERS_OF_TABLES, "edge"])
def test_every_variable_is_a_setting(workload: str, site: list[Manifest]) -> None:
    """What the overlay and the components add is read by the service."""
    settings = importlib.import_module(f"services.{workload.partition('-')[0]}.settings").Settings
    fields = {"TOLLBRIDGE_" + field.name.upper() for field in msgspec.structs.fields(settings)}
    assert variables(running(site)[workload]).keys() - fields == set()


def test_what_is_scaled_by_load_has_no_number_of_its_own(site: list[Manifest]) -> None:
    """Applying the manifests again doesn't undo what an autoscaler has decided; all else has a number."""
    scaled = {
        (each["spec"]["scaleTargetRef"]["kind"], each["spec"]["scaleTargetRef"]["name"])
        for each in site
        if each["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")
    }
    assert scaled == {("StatefulSet", "edge"), ("Deployment", "router"), ("Deployment", "tasks-worker")}
    without = {(each["kind"], name) for name, each in running(site).items() if "replicas" not in each["spec"]}
    assert without == scaled


@pytest.mark.parametrize("name", ["edge", "router"])
def test_replicas_by_cpu_come_at_once_and_go_one_by_one(name: str, prod: list[Manifest]) -> None:
    """Utilization is of one core, which is what a process can use; an edge has left before the next one goes."""
    scaler = one(prod, "HorizontalPodAutoscaler", name)["spec"]
    workload = running(prod)[name]
    (metric,) = scaler["metrics"]
    container = template(workload)["spec"]["containers"][0]
    assert (metric["containerResource"]["container"], metric["containerResource"]["name"]) == (container["name"], "cpu")
    assert container["resources"]["requests"]["cpu"] == "1"
    assert 2 <= scaler["minReplicas"] < scaler["maxReplicas"]
    assert scaler["behavior"]["scaleUp"]["stabilizationWindowSeconds"] == 0
    (policy,) = scaler["behavior"]["scaleDown"]["policies"]
    assert (policy["type"], policy["value"]) == ("Pods", 1)
    leaves_within_s = template(workload)["spec"]["terminationGracePeriodSeconds"]
    assert policy["periodSeconds"] >= leaves_within_s
    assert scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= leaves_within_s


def test_workers_follow_the_length_of_their_queue(site: list[Manifest]) -> None:
    """A trigger for each kind of job, over metrics that exist, with a threshold below what a worker runs at once."""
    scaler = one(site, "ScaledObject", "tasks-worker")["spec"]
    assert {each["name"] for each in scaler["triggers"]} == set(KINDS_OF_JOBS)
    told = (ROOT / "deploy" / "observability" / "README.md").read_text()
    given = variables(running(site)["tasks-worker"])
    namespace = one(site, "Deployment", "tasks-worker")["metadata"]["namespace"]
    for each in scaler["triggers"]:
        query = each["metadata"]["query"]
        asked = re.findall(r'(tollbridge_\w+)\{namespace="([^"]+)", kind="(\w+)"\}', query)
        assert {(where, kind) for _, where, kind in asked} == {(namespace, each["name"])}
        assert {name for name, _, _ in asked} == {"tollbridge_tasks_waiting", "tollbridge_tasks_running"}
        assert all(f"| `{name}` | kind |" in told for name, _, _ in asked)
        assert 0 < float(each["metadata"]["threshold"]) < int(given[f"TOLLBRIDGE_WORKER_{each['name'].upper()}_JOBS"])
        assert each["metricType"] == "AverageValue"  # KEDA's fallback knows no other
    assert 2 <= scaler["minReplicaCount"] <= scaler["fallback"]["replicas"] <= scaler["maxReplicaCount"]


def test_an_emptied_node_takes_one_replica_of_each(site: list[Manifest]) -> None:
    """Whatever runs for ever has a budget of its own that lets one go, never none, and at least two replicas."""
    budgets = of_kind(site, "PodDisruptionBudget")
    assert budgets.keys() == running(site).keys()
    for name, each in budgets.items():
        assert each["spec"]["maxUnavailable"] == 1
        found = [other for other, it in running(site).items() if selects(each["spec"]["selector"]["matchLabels"], it)]
        assert found == [name]
        assert running(site)[name]["spec"].get("replicas", 2) >= 2


def test_replicas_spread_over_zones_and_nodes(site: list[Manifest]) -> None:
    """As far as there are some; NATS never has two servers on one node."""
    for name, each in running(site).items():
        rules = {rule["topologyKey"]: rule for rule in template(each)["spec"]["topologySpreadConstraints"]}
        assert rules.keys() == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
        for rule in rules.values():
            assert selects(rule["labelSelector"]["matchLabels"], each)
            own = "app.kubernetes.io/name"
            assert own in rule["labelSelector"]["matchLabels"] or own in rule["matchLabelKeys"]
        wanted = "DoNotSchedule" if name == "nats" else "ScheduleAnyway"
        assert rules["kubernetes.io/hostname"]["whenUnsatisfiable"] == wanted


def test_every_replica_is_scraped_until_it_is_gone(site: list[Manifest]) -> None:
    """Each workload has one name for its metrics ports, draining replicas included, and the monitor finds it."""
    monitor = one(site, "ServiceMonitor", "tollbridge")["spec"]
    wanted = monitor["selector"]["matchLabels"].items()
    found = [each for each in of_kind(site, "Service").values() if wanted <= each["metadata"]["labels"].items()]
    seen: list[str] = []
    for each in found:
        assert each["spec"]["publishNotReadyAddresses"] is True
        (port,) = each["spec"]["ports"]
        assert port["name"] == monitor["endpoints"][0]["port"]
        for name, workload in running(site).items():
            if selects(each["spec"]["selector"], workload):
                ports = {it["name"]: it["containerPort"] for it in template(workload)["spec"]["containers"][0]["ports"]}
                assert ports[port["targetPort"]] == port["port"]
                seen.append(name)
    assert sorted(seen) == sorted([*OWNERS_OF_TABLES, "edge"])
    job = monitor["jobLabel"]
    assert {each["metadata"]["labels"][job] for each in found} == {"tollbridge"}  # job=~"tollbridge.*" in the alerts


def test_the_way_in_buffers_nothing_and_repeats_nothing(site: list[Manifest]) -> None:
    """In the words of both controllers: streams pass as they come, as long and as large as edge allows."""
    ingress = one(site, "Ingress", "tollbridge")
    told = ingress["metadata"]["annotations"]
    for family, off in (("nginx.ingress.kubernetes.io", "off"), ("nginx.org", "False")):
        assert told[f"{family}/proxy-buffering"] == off
        assert told[f"{family}/proxy-next-upstream"] == "off"
        assert int(told[f"{family}/proxy-read-timeout"].removesuffix("s")) > TimeoutsSection().total
    sizes = [value for name, value in told.items() if name.endswith("body-size")]
    assert len(sizes) == 2
    assert all(int(each.removesuffix("m")) << 20 >= MAX_FORM_BYTES for each in sizes)
    edge = one(site, "Service", "edge")
    (rule,) = ingress["spec"]["rules"]
    public = {"/v1/models", "/webhooks/stripe", "/webhooks/crypto", receipt_keys.PATH, "/docs", "/openapi.json"}
    assert [each for each in public if not any(each.startswith(it["path"]) for it in rule["http"]["paths"])] == []
    for path in rule["http"]["paths"]:
        backend = path["backend"]["service"]
        assert (backend["name"], backend["port"]["name"]) == ("edge", edge["spec"]["ports"][0]["name"])
        assert not any(each.startswith(path["path"]) for each in ("/admin", "/metrics"))


def test_operators_have_a_port_of_their_own(site: list[Manifest]) -> None:
    """Edge serves /admin on it alone; no way in leads there, and one namespace may ask it."""
    edge = running(site)["edge"]
    given, container = variables(edge), template(edge)["spec"]["containers"][0]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert given["TOLLBRIDGE_ADMIN_BIND"] == f"0.0.0.0:{ports['admin']}"
    assert [each["targetPort"] for each in one(site, "Service", "edge")["spec"]["ports"]] == ["http"]
    assert [each["targetPort"] for each in one(site, "Service", "edge-admin")["spec"]["ports"]] == ["admin"]
    let_in = [
        rule.get("from")
        for each in of_kind(site, "NetworkPolicy").values()
        if each["spec"]["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/name") == "edge"
        for rule in each["spec"].get("ingress", ())
        if ports["admin"] in [port["port"] for port in rule["ports"]]
    ]
    assert let_in == [[{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "tollbridge-operators"}}}]]


def test_edge_hears_only_the_controller_where_there_is_one(site: list[Manifest]) -> None:
    """Its port is open to that namespace alone."""
    rules = one(site, "NetworkPolicy", "edge")["spec"]["ingress"]
    assert [each.get("from") for each in rules] == [
        [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}]
    ]


def test_the_spool_of_a_lost_edge_is_kept_and_replayed(prod: list[Manifest], replay: list[Manifest]) -> None:
    """The volume stays, and the job mounts the one of its edge where the edge had it, under the rights of the edge."""
    edge = running(prod)["edge"]
    kept = edge["spec"]["persistentVolumeClaimRetentionPolicy"]
    assert kept == {"whenScaled": "Retain", "whenDeleted": "Retain"}
    (claim,) = edge["spec"]["volumeClaimTemplates"]
    (job,) = replay
    pod = template(job)["spec"]
    (volume,) = (each for each in pod["volumes"] if "persistentVolumeClaim" in each)
    assert volume["persistentVolumeClaim"]["claimName"] == f"{claim['metadata']['name']}-edge-0"
    container, original = pod["containers"][0], template(edge)["spec"]["containers"][0]
    mount = next(each for each in container["volumeMounts"] if each["name"] == volume["name"])
    assert mount in original["volumeMounts"]
    given = variables(edge)
    assert container["command"] == ["tollbridge", "spool", "replay", given["TOLLBRIDGE_SPOOL_DIR"]]
    for name, value in variables(job).items():
        assert given[name] == value
    assert container["image"] == original["image"]
    assert pod["securityContext"] == template(edge)["spec"]["securityContext"]


def test_the_replay_is_bounded_and_let_through(prod: list[Manifest], replay: list[Manifest]) -> None:
    """It ends by itself, may no more than others, and billing listens to it."""
    test_cluster.test_no_pod_may_more_than_it_needs(replay)
    test_cluster.test_every_container_is_bounded(replay)
    test_cluster.test_every_job_ends(replay)
    (job,) = replay
    assert job["metadata"]["namespace"] == one(prod, "Deployment", "billing")["metadata"]["namespace"]
    sources = [
        each.get("podSelector", {})
        for rule in one(prod, "NetworkPolicy", "billing")["spec"]["ingress"]
        for each in rule["from"]
    ]
    named = {
        value
        for each in sources
        for value in (
            *each.get("matchLabels", {}).values(),
            *(value for it in each.get("matchExpressions", ()) for value in it["values"]),
        )
    }
    assert label(job) in named


def test_every_pod_runs_as_an_account_of_its_own(site: list[Manifest], replay: list[Manifest]) -> None:
    """That is there, and that no token is mounted for; the accounts are nobody else's."""
    accounts = of_kind(site, "ServiceAccount")
    assert {each["automountServiceAccountToken"] for each in accounts.values()} == {False}
    used = {label(each): template(each)["spec"]["serviceAccountName"] for each in workloads([*site, *replay]).values()}
    assert set(used.values()) == accounts.keys()
    assert used == {name: name for name in used}


def test_one_line_makes_the_job_of_another_edge(replay: list[Manifest]) -> None:
    """The README's `sed` changes the job's name and its volume, and nothing else."""
    (old, new) = re.findall(r"sed 's/(edge-\d+)/(edge-\d+)/'", README)[0]
    changed = yaml.safe_load("\n".join(line.replace(old, new, 1) for line in yaml.safe_dump(replay[0]).splitlines()))
    assert changed["metadata"]["name"] == f"spool-replay-{new}"
    claims = [
        each["persistentVolumeClaim"]["claimName"]
        for each in template(changed)["spec"]["volumes"]
        if len(each) > 1 and "persistentVolumeClaim" in each
    ]
    assert claims == [f"spool-{new}"]
    changed["metadata"]["name"] = replay[0]["metadata"]["name"]
    for each in template(changed)["spec"]["volumes"]:
        if "persistentVolumeClaim" in each:
            each["persistentVolumeClaim"]["claimName"] = f"spool-{old}"
    assert changed == replay[0]
    assert math.isfinite(float(new.rpartition("-")[2]))


def test_our_own_pods_are_a_user_that_no_node_has(site: list[Manifest], replay: list[Manifest]) -> None:
    """The one of the image, with a number above those that systems give away."""
    for each in workloads([*site, *replay]).values():
        assert template(each)["spec"]["securityContext"]["runAsUser"] == 10001
    assert "useradd --uid 10001" in (ROOT / "Dockerfile").read_text()
