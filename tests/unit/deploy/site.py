"""What a site would apply: the overlay `prod`, the same with every component, and the replay of a spool."""

import functools
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tests.unit.deploy.cluster import K8S, Manifest, manifests, template, tool, workloads

COMPONENTS = ("keda", "servicemonitors", "pgbouncer", "ingress")
OWNERS_OF_TABLES = {"auth": "auth", "router": "router", "billing": "billing", "tasks": "tasks", "tasks-worker": "tasks"}
"""Each workload that logs in at PostgreSQL, and as which service."""
README = (K8S / "overlays" / "prod" / "README.md").read_text()


def kustomized(folder: Path) -> list[Manifest]:
    """What would be applied."""
    done = subprocess.run([tool("kubectl"), "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def prod_objects() -> list[Manifest]:
    """The overlay alone."""
    return manifests("overlays/prod")


def replay_objects() -> list[Manifest]:
    """The job for the spool of an edge that is gone."""
    return kustomized(K8S / "overlays" / "prod" / "spool-replay")


@functools.cache
def site_yaml() -> str:
    """Of a site that has the overlay as its resource, and every component."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()

        def relative(*parts: str) -> str:
            return os.path.relpath(K8S.joinpath(*parts), folder)

        content = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [relative("overlays", "prod")],
            "components": [relative("components", each) for each in COMPONENTS],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
        return yaml.safe_dump_all(kustomized(folder))


def site_objects() -> list[Manifest]:
    """Each object of that site."""
    return [each for each in yaml.safe_load_all(site_yaml()) if each]


def one(objects: list[Manifest], kind: str, name: str) -> Manifest:
    """The object of that kind and name."""
    (found,) = (each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def of_kind(objects: list[Manifest], kind: str) -> dict[str, Manifest]:
    """All of a kind, by name."""
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


def variables(workload: Manifest) -> dict[str, Any]:
    """Of its first container: name and value, or where it comes from."""
    given = template(workload)["spec"]["containers"][0].get("env", ())
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in given}


def selects(selector: dict[str, str], workload: Manifest) -> bool:
    """Whether a selector finds the workload's pods."""
    return selector.items() <= template(workload)["metadata"]["labels"].items()


def running(objects: list[Manifest]) -> dict[str, Manifest]:
    """What runs for ever."""
    return {name: each for name, each in workloads(objects).items() if each["kind"] in ("Deployment", "StatefulSet")}
