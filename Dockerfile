# The bridge, without a configuration: mount one below /app, or build on this image.
# `slim` (the default) has a shell and Python's package: build images with further libraries on it. `distroless` has what the
# bridge loads, and nothing else. docker-bake.hcl builds both for two architectures.
# The digest is that of 3.13.15-slim for every platform
ARG PYTHON=python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b
FROM ${PYTHON} AS build
RUN python -m venv /opt/bridge
ENV PATH=/opt/bridge/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# The libraries change less often than the bridge: a layer of their own
COPY requirements.lock ./
RUN pip install --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY bridge ./bridge
RUN pip install --no-deps --no-build-isolation . && pip uninstall --yes pip

FROM build AS files
COPY deploy/image/rootfs.py ./
RUN python rootfs.py /rootfs --tree /usr/local --tree /opt/bridge

FROM scratch AS distroless
COPY --from=files /rootfs /
# Nothing is written below the root file system, so it may be read-only. Workflows in /app are found wherever the configuration is
ENV PATH=/opt/bridge/bin PYTHONPATH=/app PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
WORKDIR /app
USER 10001:10001
EXPOSE 8099
# Whether it lives, not whether it is ready: an outage of the broker or engine is no reason to restart it
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8099, timeout=3); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["bridge"]
CMD ["serve"]

FROM ${PYTHON} AS slim
# State lives in /var/lib/bridge; a volume that is made for it takes its owner over
RUN groupadd --gid 10001 bridge \
    && useradd --uid 10001 --gid bridge --no-create-home --home-dir /var/lib/bridge --shell /usr/sbin/nologin bridge \
    && install -d -o bridge -g bridge -m 0700 /var/lib/bridge \
    && install -d /app
COPY --from=build /opt/bridge /opt/bridge
# As above
ENV PATH=/opt/bridge/bin:$PATH PYTHONPATH=/app PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /app
USER 10001:10001
EXPOSE 8099
# As above
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8099, timeout=3); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["bridge"]
CMD ["serve"]
