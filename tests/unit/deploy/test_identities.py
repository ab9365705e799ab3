"""Who a pod is: the components `nats-users` and `mtls` give each service a name of its own, and nobody another's."""

import os
import re
import subprocess
from pathlib import Path

from tests.unit.deploy.cluster import ROOT, Manifest, containers, template, tool, workloads
from tests.unit.deploy.site import OWNERS_OF_TABLES, of_kind, one, running, variables

SERVICE_OF = {"edge": "edge", **OWNERS_OF_TABLES}
USERS = ROOT / "deploy" / "nats" / "users.conf"


def test_each_service_is_a_user_of_nats(site: list[Manifest], prod: list[Manifest]) -> None:
    """Whoever speaks to NATS has a URL of its own from the secret, for a user that the servers know."""
    users = set(re.findall(r"^ +user: (\w+),", USERS.read_text(), re.MULTILINE))
    speaks = {name for name, each in workloads(prod).items() if "TOLLBRIDGE_NATS_URL" in variables(each)}
    assert speaks == {*SERVICE_OF, "ledger-proof"} - {"router"}
    for name in speaks:
        user = "proof" if name == "ledger-proof" else SERVICE_OF[name]
        wanted = {"secretKeyRef": {"name": "tollbridge-secrets", "key": f"{user}-nats-url"}}
        assert variables(workloads(site)[name])["TOLLBRIDGE_NATS_URL"] == wanted
        assert user in users


def test_the_servers_start_with_these_users(site: list[Manifest], tmp_path: Path) -> None:
    """nats-server accepts the three files that are mounted together, with passwords by the names that they have."""
    pod = template(running(site)["nats"])["spec"]
    (volume,) = (each for each in pod["volumes"] if "projected" in each)
    for source in volume["projected"]["sources"]:
        for name, text in one(site, "ConfigMap", source["configMap"]["name"])["data"].items():
            (tmp_path / name).write_text(text)
    container = pod["containers"][0]
    (mount,) = (each for each in container["volumeMounts"] if each["name"] == volume["name"])
    path = tmp_path / Path(container["args"][1]).relative_to(mount["mountPath"])
    assert container["envFrom"] == [{"secretRef": {"name": "tollbridge-nats"}}]
    passwords = dict.fromkeys(re.findall(r"\$(TOLLBRIDGE_NATS_\w+)", USERS.read_text()), "secret")
    environment = {**os.environ, "POD_NAME": "nats-0", **passwords}
    command = [tool("nats-server"), "-t", "-c", str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    without = subprocess.run(
        command, env={**os.environ, "POD_NAME": "nats-0"}, capture_output=True, text=True, check=False
    )
    assert without.returncode != 0  # nobody gets in without a password because a secret is missing


def test_each_service_shows_its_own_certificate(site: list[Manifest]) -> None:
    """From the secret of its name, at the folder that it is told; nobody mounts another's."""
    for name, service in SERVICE_OF.items():
        workload = running(site)[name]
        pod = template(workload)["spec"]
        mounted = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
        secrets = {each["name"]: each["secret"]["secretName"] for each in pod["volumes"] if each["name"] == "tls"}
        assert {mounted[each]: secret for each, secret in secrets.items()} == {
            variables(workload)["TOLLBRIDGE_TLS_DIR"]: f"tollbridge-tls-{service}"
        }


def test_no_kubelet_needs_a_certificate(site: list[Manifest]) -> None:
    """No probe is left that asks over gRPC."""
    for _, container in containers(site):
        assert not [kind for kind, probe in container.items() if kind.endswith("Probe") and "grpc" in probe]
    assert of_kind(site, "Deployment")  # there were some to look at
