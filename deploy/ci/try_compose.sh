#!/usr/bin/env bash
# docker-compose.yml with stand-ins: built twice the same, listed, up, used, scaled, killed under load, proven, down. Runs
# beside the engine. What watches (the profile observability) has no stand-ins.
set -euo pipefail
deploy/ci/stand_ins.sh
export PYTHON_IMAGE=stand-in/python:1 BUILD_IMAGE=stand-in/python-build:1
export NATS_IMAGE=stand-in/nats:1 POSTGRES_IMAGE=stand-in/postgres:1 HAPROXY_IMAGE=stand-in/haproxy:1
environment=$(mktemp -u)
python3 deploy/compose/make_env.py "$environment"
compose() { docker compose --env-file "$environment" --progress plain "$@"; }
say() { echo "containers: $* ($SECONDS s)"; }
smoke() { python3 deploy/ci/smoke.py "http://127.0.0.1:8080" "$environment" "$@"; }
demo_keys() { # each start of the demo's container has shown one
  compose logs --no-color --no-log-prefix demo | python3 -c 'import json, sys
print(*sorted({json.loads(line)["demo_key"] for line in sys.stdin}))'
}
failed() { compose ps --all; compose logs --tail 30; }
trap failed ERR
trap 'compose down --volumes --timeout 5 >/dev/null 2>&1 || true; rm -rf "$environment" "${listed:-}"' EXIT

for service in billing auth router tasks edge; do
  DOCKER_BUILDKIT=1 docker build --quiet --build-arg "SERVICE=$service" --build-arg PYTHON_IMAGE --build-arg BUILD_IMAGE \
    --tag "tollbridge/$service:0.1.0" . >/dev/null
done
say "images are built"
deploy/ci/same_twice.sh tollbridge/edge:0.1.0
listed=$(mktemp -d)
DOCKER_BUILDKIT=1 docker build --quiet --target sbom --build-arg PYTHON_IMAGE --build-arg BUILD_IMAGE \
  --output "type=local,dest=$listed" . >/dev/null
python3 -c 'import json, sys; print("containers: listed", len(json.load(sys.stdin)["components"]), "parts")' \
  <"$listed/tollbridge.cdx.json"
compose up --no-build --wait --wait-timeout 300 >/dev/null 2>&1
say "up"
smoke
key=$(demo_keys)
smoke --key "$key"
compose up --no-build --wait --wait-timeout 300 --scale router=3 --scale edge=2 >/dev/null 2>&1
smoke --edges 2 --routers 3
[ "$(demo_keys)" = "$key" ] # still the one
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
