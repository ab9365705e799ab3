#!/usr/bin/env bash
# `engine.sh FOLDER COMMAND...` runs COMMAND beside a Docker engine, both in network, mount and process namespaces of their
# own: what is published is there on 127.0.0.1 for COMMAND alone, nothing gets out, and all ends when COMMAND ends.
set -euo pipefail
folder=$(realpath -m "$1")
shift
mkdir -p "$folder/plugins/cli-plugins" "$folder/bin"
# The client that came with the engine: newer ones build by BuildKit only with a plugin that Debian doesn't have.
ln -sfn /usr/bin/docker "$folder/bin/docker"
ln -sfn "$(command -v docker-compose || realpath .venv/bin/docker-compose)" "$folder/plugins/cli-plugins/docker-compose"
export DOCKER_HOST=unix://$folder/docker.sock DOCKER_CONFIG=$folder/plugins PATH=$folder/bin:$PATH
exec unshare --net --mount --pid --ipc --uts --fork --kill-child --mount-proc bash -c '
  set -euo pipefail
  folder=$1
  shift
  ip link set lo up
  dockerd --host "$DOCKER_HOST" --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/pid" \
    --log-level warn >"$folder/log" 2>&1 &
  engine=$!
  for _ in $(seq 300); do
    docker version >/dev/null 2>&1 && break
    kill -0 $engine || { tail -20 "$folder/log"; exit 1; }
    sleep 0.2
  done
  status=0
  "$@" || status=$?
  kill -TERM $engine && wait $engine || true
  exit $status
' engine "$folder" "$@"
