#!/usr/bin/env bash
# The tests' own PostgreSQL and NATS by testcontainers instead of embedded ones: those tests that ask most of the two. Runs
# beside the engine, whose stand-in images are there already.
set -euo pipefail
export TOLLBRIDGE_TEST_SERVERS=containers TESTCONTAINERS_RYUK_DISABLED=true
export NATS_IMAGE=stand-in/nats:1 POSTGRES_IMAGE=stand-in/postgres:1
.venv/bin/python -m pytest -p no:cacheprovider tests/integration/test_servers_in_containers.py tests/unit/chassis/test_db.py \
  tests/unit/chassis/test_bus.py tests/unit/auth/test_process.py tests/unit/billing/test_on_the_bus.py
[ -z "$(docker ps --all --quiet)" ] || { docker ps --all && false; }
echo "containers: tests ran with their servers in containers ($SECONDS s)"
