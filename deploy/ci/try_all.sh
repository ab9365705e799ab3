#!/usr/bin/env bash
# All that is tried beside the engine.
set -euo pipefail
deploy/ci/stand_ins.sh
echo "containers: stand-ins are made ($SECONDS s)"
deploy/ci/try_servers.sh
deploy/ci/try_compose.sh
