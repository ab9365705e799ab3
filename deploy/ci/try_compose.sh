#!/usr/bin/env bash
# docker-compose.yml with stand-ins: built, up, used, scaled, killed under load, proven, down. Runs beside the engine.
set -euo pipefail
deploy/ci/stand_ins.sh
export PYTHON_IMAGE=stand-in/python:1 BUILD_IMAGE=stand-in/python-build:1
export NATS_IMAGE=stand-in/nats:1 POSTGRES_IMAGE=stand-in/postgres:1 HAPROXY_IMAGE=stand-in/haproxy:1
environment=$(mktemp -u)
python3 deploy/compose/make_env.py "$environment"
compose() { docker compose --env-file "$environment" --progress plain "$@"; }
say() { echo "containers: $* ($SECONDS s)"; }
smoke() { python3 deploy/ci/smoke.py "http://127.0.0.1:8080" "$environment" "$@"; }
failed() { compose ps --all; compose logs --tail 30; }
trap failed ERR
trap 'compose down --volumes --timeout 5 >/dev/null 2>&1 || true; rm -f "$environment"' EXIT

for service in billing auth router tasks edge; do
  DOCKER_BUILDKIT=1 docker build --quiet --build-arg "SERVICE=$service" --build-arg PYTHON_IMAGE --build-arg BUILD_IMAGE \
    --tag "tollbridge/$service:0.1.0" . >/dev/null
done
say "images are built"
compose up --no-build --wait --wait-timeout 300 >/dev/null 2>&1
say "up"
smoke
compose up --no-build --wait --wait-timeout 300 --scale router=3 --scale edge=2 >/dev/null 2>&1
smoke --edges 2 --routers 3
say "scaled"
smoke --load-s 25 &
load=$!
for name in edge-2 router-2 billing-1; do
  sleep 5
  # by its pid: what `docker kill` ends stays ended
  kill -KILL "$(docker inspect --format '{{.State.Pid}}' "tollbridge-$name")"
done
wait $load
say "killed under load"
compose run --rm --no-deps --entrypoint "tollbridge ledger verify" migrate 2>&1 | tail -1
say "proven"
