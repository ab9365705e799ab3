"""What kustomize makes of the folders under deploy/k8s, for the tests here."""

import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
K8S = ROOT / "deploy" / "k8s"
KINDS = ("Deployment", "StatefulSet", "Job", "CronJob")
VARIANTS = ("base", *sorted(f"overlays/{each.name}" for each in (K8S / "overlays").glob("*")))

Manifest = dict[str, Any]


def tool(name: str) -> str:
    """A tool of the environment; skips when it is missing."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@functools.cache
def rendered(variant: str) -> str:
    """The YAML that would be applied."""
    done = subprocess.run(
        [tool("kubectl"), "kustomize", str(K8S / variant)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def manifests(variant: str) -> list[Manifest]:
    """Each object of a variant."""
    return [each for each in yaml.safe_load_all(rendered(variant)) if each]


def workloads(objects: list[Manifest]) -> dict[str, Manifest]:
    """What has pods, by name."""
    return {each["metadata"]["name"]: each for each in objects if each["kind"] in KINDS}


def template(workload: Manifest) -> Manifest:
    """The pods that a workload makes."""
    spec = workload["spec"]["jobTemplate"]["spec"] if workload["kind"] == "CronJob" else workload["spec"]
    found: Manifest = spec["template"]
    return found


def label(workload: Manifest) -> str:
    """The name by which policies and services select its pods."""
    return str(template(workload)["metadata"]["labels"]["app.kubernetes.io/name"])


def containers(objects: list[Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    """Each container with the pod that it is in, initial ones, too."""
    for each in workloads(objects).values():
        pod = template(each)["spec"]
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            yield pod, container
