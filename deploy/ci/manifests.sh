#!/usr/bin/env bash
# The Dockerfile and what Kubernetes would be given, read by checkov and hadolint in an environment of their own
# (requirements/checks.txt), made in $TOLLBRIDGE_CI_CACHE. Our own reading, kustomize's and kubernetes-validate's are tests.
set -euo pipefail
cd "$(dirname "$0")/../.."
python3 bootstrap.py setup
cache=${TOLLBRIDGE_CI_CACHE:-$PWD/.containers}
tools=$cache/checks-$(sha256sum requirements/checks.txt | cut -c1-16)
built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT
if [ ! -e "$tools/complete" ]; then
  rm -rf "$tools"
  mkdir -p "$cache"
  .venv/bin/python -m venv --without-pip "$tools"
  .venv/bin/python - "$tools/bin/python" <<'P' || { echo "manifests: the checkers can't be installed" && exit 1; }
import subprocess, sys
import bootstrap
pip = [str(bootstrap.PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input"]
install = [str(bootstrap.BIN / "uv"), "pip", "install", "--quiet", "--python", sys.argv[1], "--require-hashes"]
sys.exit(subprocess.run([*install, "-r", "requirements/checks.txt"], env=bootstrap.uv_environment(pip)).returncode)
P
  touch "$tools/complete"
fi
PYTHONPATH=. .venv/bin/python -c "from tests.unit.deploy.site import site_yaml; print(site_yaml())" >"$built/site.yaml"
for variant in base overlays/dev overlays/prod; do
  .venv/bin/kubectl kustomize "deploy/k8s/$variant" >"$built/${variant#overlays/}.yaml"
done
"$tools/bin/checkov" --config-file deploy/k8s/checkov.yaml $(printf -- '-f %s ' "$built"/*.yaml)
"$tools/bin/checkov" --framework dockerfile --quiet --compact --skip-download -f Dockerfile
"$tools/bin/hadolint" Dockerfile
echo "manifests: checkov and hadolint find nothing ($SECONDS s)"
