# Two images: `docker build .` is for CPUs, `docker build --target gpu .` for NVIDIA's GPUs. deploy/README.md tells how
# they are run.
#
# - Every Python package is locked with its hashes; the base is pinned by digest. To build on a base of your own, with
#   Python 3.11 to 3.13 and its venv: --build-arg BASE=...
# - Where pip needs a mirror or a certificate: --secret id=pip,src=pip.conf; no trace of it stays in the image.
# - Layers from what changes least to what changes most: packages, weights, code.
ARG BASE=python:3.11.16-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

# --- what builds, and is left behind ---

# The tag and the digest are in BASE, where this rule does not look.
# checkov:skip=CKV_DOCKER_7: see above
FROM ${BASE} AS build
# binutils has strip. It is the base's own release of it, and nothing of it is kept, so no version is pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends binutils \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /build \
    && python3 -m venv /sbom \
    && python3 -m venv --without-pip /opt/glimpse
COPY locks/sbom.txt /src/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    /sbom/bin/pip install --disable-pip-version-check --require-hashes --requirement /src/sbom.txt
COPY deploy/image/trim.sh pyproject.toml /src/

FROM build AS packages-cpu
COPY locks/server.txt /src/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    /build/bin/pip --disable-pip-version-check --python /opt/glimpse install --require-hashes --requirement /src/server.txt \
    && sh /src/trim.sh /opt/glimpse

FROM build AS packages-gpu
COPY locks/gpu.txt /src/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    /build/bin/pip --disable-pip-version-check --python /opt/glimpse install --require-hashes --requirement /src/gpu.txt \
    && sh /src/trim.sh /opt/glimpse

FROM ${BASE} AS app
# The package as it is installed: where src/glimpse has links, the folders themselves.
COPY src/glimpse/__init__.py /app/glimpse/
COPY client /app/glimpse/client
COPY proto/glimpse/v1 /app/glimpse/v1
COPY models /app/glimpse/models
COPY server /app/glimpse/server
COPY deploy/image/probe.py /app/deploy/
# Compiled here, because a read-only root keeps no compiled files; by hash, because copies may not keep times.
RUN mv /app/glimpse/models/bundles /bundles \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /app

# --- what is shipped ---

FROM ${BASE} AS runtime
ARG BASE
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Glimpse" \
      org.opencontainers.image.description="A gRPC image-classification service: photos in, ranked and calibrated labels out" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
# A number above the host's own users, fixed, so that manifests and volumes can name it.
RUN groupadd --gid 10001 glimpse \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin glimpse \
    && install --directory --owner 10001 --group 10001 /var/cache/glimpse
# HOME: with a read-only root, /tmp is all that can be written. GLIMPSE_CACHE: mount a volume there to keep what was
# fetched.
ENV PATH="/opt/glimpse/bin:${PATH}" \
    PYTHONPATH=/app \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    GLIMPSE_CACHE=/var/cache/glimpse
WORKDIR /app
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "glimpse.server"]

FROM runtime AS gpu
# What NVIDIA's container runtime asks for; the driver comes from the host.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=packages-gpu /opt/glimpse /opt/glimpse
COPY --from=app /bundles /app/glimpse/models/bundles
COPY --from=app /app /app
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=3 CMD ["python", "/app/deploy/probe.py"]
USER 10001:10001

FROM runtime AS cpu
COPY --from=packages-cpu /opt/glimpse /opt/glimpse
COPY --from=app /bundles /app/glimpse/models/bundles
COPY --from=app /app /app
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["python", "/app/deploy/probe.py"]
USER 10001:10001
# Converts the default network, whose weights are one of the packages, for OpenVINO, so that a container serves it after
# two seconds; it must give its recorded answers here already.
RUN python -m glimpse.server prepare
