"""What overlays/prod/README.md tells a site to write does what it says."""

import os
import re
from pathlib import Path

import pytest
import yaml

from tests.unit.deploy.cluster import K8S, Manifest, containers, template
from tests.unit.deploy.site import README, kustomized, of_kind, one, variables


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """The README's kustomization, with this checkout for the repository, and a config file beside it."""
    folder = tmp_path_factory.mktemp("example").resolve()
    (text,) = re.findall(r"```yaml\n# site/kustomization.yaml\n(.*?)```", README, re.DOTALL)
    here = re.sub(r"github\.com/\.\.\./deploy/k8s(/[\w/]+)\?ref=v[\d.]+", os.path.relpath(K8S, folder) + r"\1", text)
    assert "github.com" not in here
    (folder / "kustomization.yaml").write_text(here.replace("sha256:...", "sha256:" + "0" * 64))
    (folder / "tollbridge.yaml").write_text("surfaces: []\n")
    return kustomized(folder)


def test_a_site_has_its_images_its_config_and_its_components(example: list[Manifest]) -> None:
    """By digest from its registry, under the name that running pods watch, and only what it asked for."""
    images = {container["image"] for _, container in containers(example)}
    assert "registry.example/tollbridge/edge@sha256:" + "0" * 64 in images
    assert one(example, "ConfigMap", "tollbridge-config")["data"] == {"tollbridge.yaml": "surfaces: []\n"}
    assert of_kind(example, "ScaledObject")
    assert of_kind(example, "ServiceMonitor")
    assert not of_kind(example, "Ingress")
    assert "pgbouncer" not in of_kind(example, "Deployment")


def test_a_site_lets_its_pods_reach_its_postgresql_alone(example: list[Manifest]) -> None:
    """The patch of the README narrows the base's policy."""
    (rule,) = one(example, "NetworkPolicy", "postgres-clients")["spec"]["egress"]
    assert rule == {"to": [{"ipBlock": {"cidr": "192.0.2.10/32"}}], "ports": [{"protocol": "TCP", "port": 5432}]}


def test_a_replay_can_show_the_certificate_of_the_edge(tmp_path: Path) -> None:
    """The component works on the job, too: it acts for the lost edge."""
    folder = tmp_path.resolve()
    content = {
        "resources": [os.path.relpath(K8S / "overlays" / "prod" / "spool-replay", folder)],
        "components": [os.path.relpath(K8S / "components" / "mtls", folder)],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
    (job,) = kustomized(folder)
    secrets = [each["secret"]["secretName"] for each in template(job)["spec"]["volumes"] if "secret" in each]
    assert secrets == ["tollbridge-tls-edge"]
    assert "TOLLBRIDGE_TLS_DIR" in variables(job)
