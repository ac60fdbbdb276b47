# The image of csi-oras: the driver, its command line and what lazy volumes need, nothing to build with.
#
#   docker build -t ghcr.io/csi-oras/csi-oras:0.1.0 .
#   buildah build -t ghcr.io/csi-oras/csi-oras:0.1.0 .
#
# BASE may be any Debian 13: the same base serves both stages, for the first builds for the Python of the second.
ARG BASE=docker.io/library/debian:trixie-20260803-slim@sha256:3a39a0592364683e6bab97937b72cad5a8fa6dcbbee90edb3bb48c7f8e94f258

FROM ${BASE} AS build
# pyfuse3 comes as source only; everything else is a wheel
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates gcc libc6-dev libfuse3-dev pkg-config python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# the versions and their hashes first: they change less often than the source, and the layer is kept
COPY deploy/image/requirements.txt deploy/image/
RUN python3 -m venv /opt/csi-oras \
 && /opt/csi-oras/bin/pip install --no-cache-dir --no-compile --require-hashes -r deploy/image/requirements.txt
COPY pyproject.toml README.md ./
COPY proto proto
COPY csi_oras csi_oras
# the environment goes to the next stage, so it holds no pip; bytecode is made once, for the file system will be read-only
RUN /opt/csi-oras/bin/pip install --no-cache-dir --no-compile --no-deps . \
 && /opt/csi-oras/bin/pip check \
 && /opt/csi-oras/bin/pip uninstall --yes pip \
 && python3 -m compileall -q -j 0 /opt/csi-oras/lib

FROM ${BASE}
# ca-certificates: registries are reached by HTTPS; libfuse3: pyfuse3 is linked against it
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates libfuse3-4 python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/apt /var/log/dpkg.log
COPY --from=build /opt/csi-oras /opt/csi-oras
ENV PATH=/opt/csi-oras/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
LABEL org.opencontainers.image.title="csi-oras" \
      org.opencontainers.image.description="A CSI driver that makes any OCI artifact a Kubernetes volume" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/csi-oras/csi-oras"
# root: mounting needs it; the controller, which mounts nothing, is given another user by its manifest
ENTRYPOINT ["csi-oras"]
