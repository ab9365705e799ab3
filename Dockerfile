# One image recipe for every service: docker build --build-arg SERVICE=edge .
ARG PYTHON_IMAGE=docker.io/library/python:3.12-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY requirements/ requirements/
RUN python -m venv /opt/tollbridge \
 && /opt/tollbridge/bin/pip install --no-cache-dir --require-hashes -r requirements/uv.txt \
 && /opt/tollbridge/bin/uv pip install --python /opt/tollbridge/bin/python --no-cache --require-hashes --compile-bytecode \
      -r requirements/runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY chassis chassis
COPY pricing pricing
COPY upstream upstream
COPY cli cli
COPY services services
COPY gen gen
RUN /opt/tollbridge/bin/uv pip install --python /opt/tollbridge/bin/python --no-cache --no-deps --no-build-isolation \
      --compile-bytecode .

FROM ${PYTHON_IMAGE}
ARG SERVICE
LABEL org.opencontainers.image.title="tollbridge-${SERVICE}" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin tollbridge \
 && install -d -o tollbridge /var/lib/tollbridge
COPY --from=build /opt/tollbridge /opt/tollbridge
ENV PATH=/opt/tollbridge/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TOLLBRIDGE_SERVICE=${SERVICE}
USER 10001
WORKDIR /var/lib/tollbridge
# exec, so that the service is process 1 and gets SIGTERM itself
ENTRYPOINT ["/bin/sh", "-c", "exec tollbridge serve \"$TOLLBRIDGE_SERVICE\""]
