#!/usr/bin/env bash
# The image and docker-compose.yml, with stand-ins for what others make: built twice the same, listed, no larger than it may
# be, up, watched, used, scaled, reconfigured, paid to, killed under load, audited, down. Runs beside the engine, whose
# stand-in images are there already.
set -euo pipefail
export PYTHON_IMAGE=stand-in/python:1 BUILD_IMAGE=stand-in/python-build:1
export NATS_IMAGE=stand-in/nats:1 POSTGRES_IMAGE=stand-in/postgres:1 HAPROXY_IMAGE=stand-in/haproxy:1
export PROMETHEUS_IMAGE=stand-in/prometheus:1 COLLECTOR_IMAGE=stand-in/listener:1
export JAEGER_IMAGE=stand-in/listener:1 GRAFANA_IMAGE=stand-in/listener:1
budget_mb=350 # what our image adds to its base
folder=$(mktemp -d)
environment=$folder/env
mkdir "$folder/config"
cp deploy/compose/config/tollbridge.yaml "$folder/config/"
export TOLLBRIDGE_CONFIG_DIR=$folder/config TOLLBRIDGE_COMPOSED=$folder
python3 deploy/compose/make_env.py --observability "$environment" >/dev/null

compose() { docker compose --env-file "$environment" --progress plain "$@"; }
up() { compose up --no-build --wait --wait-timeout 300 "$@" >"$folder/up.log" 2>&1 || { tail -20 "$folder/up.log" && false; }; }
say() { echo "containers: $* ($SECONDS s)"; }
smoke() { python3 deploy/ci/smoke.py http://127.0.0.1:8080 "$environment" "$@"; }
build() { # TAG ARGUMENTS...
  DOCKER_BUILDKIT=1 docker build --progress plain --build-arg PYTHON_IMAGE --build-arg BUILD_IMAGE "$@" . \
    >"$folder/build.log" 2>&1 || { tail -30 "$folder/build.log" && false; }
}
value() { sed -n "s/^$1=//p" "$environment"; }
demo_keys() { # each start of the demo's container has shown one
  compose logs --no-color --no-log-prefix demo | python3 -c 'import json, sys
print(*sorted({json.loads(line)["demo_key"] for line in sys.stdin}))'
}
failed() {
  echo "containers: what each said last"
  compose ps --all || true
  compose logs --no-color --tail 30 nats postgres migrate demo auth router billing tasks edge gateway prometheus || true
  echo "containers: FAILED at \`$2\` (deploy/ci/try_compose.sh, line $1)"
}
trap 'failed $LINENO "$BASH_COMMAND"' ERR
trap 'compose down --volumes --timeout 5 >/dev/null 2>&1 || true; rm -rf "$folder"' EXIT

for service in billing auth router tasks edge; do
  build --build-arg "SERVICE=$service" --tag "tollbridge/$service:0.1.0"
done
[ "$(docker image inspect --format '{{index .Config.Labels "org.opencontainers.image.title"}}' tollbridge/edge:0.1.0)" = tollbridge-edge ]
say "images are built"
size() { docker image inspect --format '{{.Size}}' "$1"; }
added_mb=$((($(size tollbridge/edge:0.1.0) - $(size $PYTHON_IMAGE)) / 1000000))
[ $added_mb -le $budget_mb ] || { echo "containers: our image adds $added_mb MB to its base, more than $budget_mb" && false; }
deploy/ci/same_twice.sh tollbridge/edge:0.1.0
build --target sbom --output "type=local,dest=$folder"
parts=$(python3 -c 'import json, sys; print(len(json.load(sys.stdin)["components"]))' <"$folder/tollbridge.cdx.json")
say "the image adds $added_mb MB, in $parts parts that are listed"

up
inside() { docker exec tollbridge-edge-1 "$@" 2>&1 || true; }
[ "$(inside id -u)" = 10001 ]
[[ "$(inside touch /opt/tollbridge/mine)" == *"Read-only file system"* ]]
say "up, without rights"
key=$(demo_keys)
smoke --key "$key"
up --scale router=3 --scale edge=2
smoke --edges 2 --routers 3
[ "$(demo_keys)" = "$key" ] # still the one
say "scaled"

docker run --rm --volume "$PWD/deploy/observability:/etc/tollbridge:ro" --entrypoint promtool "$PROMETHEUS_IMAGE" \
  check rules /etc/tollbridge/alerts.yaml >/dev/null
python3 deploy/ci/watched.py http://127.0.0.1:9091 edge=2 router=3 auth=1 billing=1 tasks=1
compose logs --no-color collector >"$folder/traces"
grep -q 'POST /v1/traces' "$folder/traces"
say "watched"

OUTSIDE=$(ip -4 -oneline address show dev docker0 | awk '{sub("/.*", "", $4); print $4}')
DATABASE=$(docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' tollbridge-postgres-1)
cat >"$folder/ready.json" <<J
{"base_url": "http://127.0.0.1:8080", "admin_token": "$(value TOLLBRIDGE_ADMIN_TOKEN)", "outside": "$OUTSIDE",
 "database_url": "postgresql://tollbridge:$(value POSTGRES_PASSWORD)@$DATABASE:5432/tollbridge",
 "services": [{"name": "edge", "replica": 0, "pid": 0, "http": "127.0.0.1:8080"}]}
J
.venv/bin/python -m pytest -p no:cacheprovider -rA -s tests/integration/test_composed.py
compose run --rm --no-deps --entrypoint "tollbridge ledger verify" migrate 2>&1 | tail -1
say "reconfigured, paid to, killed under load, and audited"

compose down --volumes --timeout 60 >"$folder/down.log" 2>&1
[ -z "$(docker ps --all --quiet)$(docker volume ls --quiet)" ] || { docker ps --all && docker volume ls && false; }
say "down, and nothing is left"
