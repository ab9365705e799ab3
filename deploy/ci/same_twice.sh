#!/usr/bin/env bash
# `same_twice.sh IMAGE`: builds the same once more, from nothing, and compares what both hold. Runs beside the engine.
set -euo pipefail
found=$(mktemp -d)
trap 'rm -rf "$found"' EXIT
held() {
  local container
  container=$(docker create "$1")
  docker export "$container" | python3 deploy/image/contents.py opt/tollbridge
  docker rm "$container" >/dev/null
}
DOCKER_BUILDKIT=1 docker build --quiet --no-cache --build-arg SERVICE=edge --build-arg PYTHON_IMAGE --build-arg BUILD_IMAGE \
  --tag tollbridge/again:1 . >/dev/null
held "$1" >"$found/first"
held tollbridge/again:1 >"$found/second"
docker rmi tollbridge/again:1 >/dev/null
diff "$found/first" "$found/second" | head -20
echo "containers: two builds hold the same $(wc -l <"$found/first") files"
