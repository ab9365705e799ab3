#!/usr/bin/env bash
# Containers, tried out for real: `deploy/ci/containers.sh [COMMAND...]`. Root on Debian; nothing is pulled from an image
# registry. Installs an engine, makes stand-ins for the base images out of Debian's packages and our locked wheels, and runs
# the command (deploy/ci/try_compose.sh) beside an engine in namespaces of its own, which end with it.
# TOLLBRIDGE_CI_CACHE keeps what was downloaded; what depends on the locks is made anew when they change.
set -euo pipefail
cd "$(dirname "$0")/../.."
export CACHE=${TOLLBRIDGE_CI_CACHE:-$PWD/.containers}

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "containers: skipped, this needs root on Debian"
  exit 0
fi
needed=(docker.io debootstrap iptables iproute2 busybox-static)
if ! dpkg --status "${needed[@]}" >/dev/null 2>&1; then
  apt-get update -qq
  # RUNLEVEL: the engine that the package brings isn't started; ours runs where it can't touch the machine's network
  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${needed[@]}" >/dev/null
fi
python3 bootstrap.py setup # .venv holds Compose, and pip to download with
deploy/ci/download.sh
[ $# -gt 0 ] || set -- deploy/ci/try_compose.sh
exec deploy/ci/engine.sh "$CACHE/engine" "$@"
