#!/usr/bin/env bash
# `engine.sh FOLDER COMMAND...` runs COMMAND beside a Docker engine, both in network, mount and process namespaces of their
# own: what is published is there on 127.0.0.1 for COMMAND alone, nothing gets out, and all ends when COMMAND ends.
# Exits with 75 where the machine lets no engine run, or the engine no container.
set -euo pipefail
folder=$(realpath -m "$1")
shift
mkdir -p "$folder/plugins/cli-plugins" "$folder/bin"
# The client that came with the engine: newer ones build by BuildKit only with a plugin that Debian doesn't have.
ln -sfn /usr/bin/docker "$folder/bin/docker"
ln -sfn "$(command -v docker-compose || realpath .venv/bin/docker-compose)" "$folder/plugins/cli-plugins/docker-compose"
export DOCKER_HOST=unix://$folder/docker.sock DOCKER_CONFIG=$folder/plugins PATH=$folder/bin:$PATH
emptied() { # control groups outlive what was in them
  find /sys/fs/cgroup -depth -type d -path '*/tollbridge-ci*' -exec rmdir {} + 2>/dev/null || true
}
trap emptied EXIT
unshare --net --mount --pid --ipc --uts --fork --kill-child --mount-proc bash -c '
  set -euo pipefail
  folder=$1
  shift
  impossible() { tail -20 "$folder/log"; exit 75; }
  ip link set lo up
  # Where the machine runs containerd, dockerd would take that one, which starts containers in the machine'\''s namespaces.
  [ ! -S /run/containerd/containerd.sock ] || mount -t tmpfs tmpfs /run/containerd
  rm -rf --one-file-system "$folder/pid" "$folder/exec" # of an engine that was killed: its numbers are others by now
  dockerd --host "$DOCKER_HOST" --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/pid" \
    --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent /tollbridge-ci --log-level warn >"$folder/log" 2>&1 &
  engine=$!
  for _ in $(seq 600); do
    docker version >/dev/null 2>&1 && break
    kill -0 $engine 2>/dev/null || impossible
    sleep 0.2
  done
  tar -C "$(dirname "$(command -v busybox)")" -c busybox | docker import - tollbridge/probe:1 >/dev/null || impossible
  docker run --rm --memory 64m --pids-limit 16 --publish 127.0.0.1:1:1 tollbridge/probe:1 /busybox true \
    >>"$folder/log" 2>&1 || impossible
  status=0
  "$@" || status=$?
  kill -TERM $engine && wait $engine || true
  exit $status
' engine "$folder" "$@"
