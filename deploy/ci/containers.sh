#!/usr/bin/env bash
# Containers, tried out for real: `deploy/ci/containers.sh [prepare | COMMAND...]`, by `make containers`. Root on Debian;
# nothing is pulled from an image registry. Installs an engine, makes stand-ins for the base images out of Debian's packages
# and our locked wheels, and runs the command (deploy/ci/try_all.sh) beside an engine in namespaces of its own, which end with
# it. `prepare` only fetches. TOLLBRIDGE_CI_CACHE keeps what was fetched, and the engine's layers; without it nothing stays
# but Debian's packages. Where it can't be done it says why and is no failure, unless TOLLBRIDGE_CONTAINERS=required.
set -euo pipefail
cd "$(dirname "$0")/../.."
export CACHE=${TOLLBRIDGE_CI_CACHE:-$PWD/.containers}
export PATH=$PWD/.venv/bin:$PATH
needed=(docker.io debootstrap iptables iproute2 busybox-static pgbouncer) # the last one for tests/integration/test_pgbouncer.py
impossible=75
wanted=${1:-}

skip() {
  echo "containers: skipped, $*"
  [ "${TOLLBRIDGE_CONTAINERS:-}" != required ] || exit 1
  [ "$wanted" != prepare ] || exit $impossible # so that who prepares doesn't come back
  exit 0
}

install_engine() {
  local found
  found=$(dpkg-query --show --showformat '${db:Status-Status} ' "${needed[@]}" 2>/dev/null) || true
  [ "$found" != "$(printf 'installed %.0s' "${needed[@]}")" ] || return 0
  local policy=/usr/sbin/policy-rc.d made='' log status=0
  log=$(mktemp)
  # The engine that the package brings isn't started: ours runs where it can't touch the machine's network.
  [ -e $policy ] || { made=yes && trap "rm -f $policy" EXIT && printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy; }
  # Newer releases have the client and its builder apart. What the machine has stays: Docker's own packages exclude Debian's.
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -q \
    --no-install-recommends --no-remove "${needed[@]}" $(apt-cache search --names-only '^docker-(cli|buildx)$' | cut -d' ' -f1); \
  } >"$log" 2>&1 </dev/null || status=$?
  [ -z "$made" ] || { rm -f $policy && trap - EXIT; }
  [ $status = 0 ] || tail -20 "$log"
  rm -f "$log"
  return $status
}

[ "$(id -u)" = 0 ] || skip "this needs root"
command -v apt-get >/dev/null || skip "this needs Debian"
unshare --net --mount --pid --ipc --uts --fork --kill-child --mount-proc true 2>/dev/null ||
  skip "the kernel gives no namespaces of its own here"
[ "$(df --output=avail -k "${TOLLBRIDGE_CI_CACHE:-.}" | tail -1)" -gt $((12 << 20)) ] ||
  skip "this needs 12 GiB of disk" # layers, and what NATS sets aside for its streams
install_engine || skip "the engine can't be installed (apt's last lines are above)"
python3 bootstrap.py setup # .venv holds Compose, and pip to download with
deploy/ci/download.sh || skip "what it needs can't be fetched (the reasons are above)"
[ "$wanted" != prepare ] || exit 0
[ $# -gt 0 ] || set -- deploy/ci/try_all.sh
status=0
deploy/ci/engine.sh "$CACHE/engine" "$@" || status=$?
[ -n "${TOLLBRIDGE_CI_CACHE:-}" ] || rm -rf --one-file-system "$CACHE"
[ $status != $impossible ] || skip "no engine runs here (its last lines are above)"
exit $status
