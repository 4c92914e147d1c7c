# The service's image: reward_model and service, no training extras, no tests, no data, no checkpoint.
#
#   make image
#   docker run --read-only --tmpfs /tmp -v "$PWD/checkpoints/demo:/model:ro" -p 8000:8000 reward-model-service:VERSION
#
# For NVIDIA GPUs: make image ARGS="--build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130"

ARG BASE=python:3.11-slim-bookworm

# Tags are fixed by whoever sets BASE; a release should name it by digest.
# hadolint ignore=DL3006
FROM ${BASE} AS builder
# The extra index that decides torch's build; empty leaves the choice to pip's own configuration.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
# For the kernels in reward_model/csrc; without them torch does their work, slower.
# hadolint ignore=DL3008
RUN command -v gcc \
    || { apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev; } \
    || echo "no C compiler: the image gets no kernels of its own" >&2
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY reward_model/__init__.py reward_model/
# The dependencies first, beside an almost empty package: this layer stays when only the code changes.
# The environment gets no pip of its own.
RUN python3 -m venv --without-pip /opt/venv \
    && python3 -m pip --python /opt/venv/bin/python install --constraint constraints.txt \
        ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} .
COPY reward_model reward_model
COPY service service
RUN python3 -m pip --python /opt/venv/bin/python install --no-deps --force-reinstall .

# hadolint ignore=DL3006
FROM ${BASE}
ARG VERSION=unknown
LABEL org.opencontainers.image.title="reward-model-service" \
      org.opencontainers.image.description="Scores prompt and response with a reward model over HTTP" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
RUN useradd -u 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin service
COPY --from=builder /opt/venv /opt/venv
# Nothing but /tmp is ever written to, so that the root file system can be read-only.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    HF_HUB_OFFLINE=1 \
    HF_HOME=/tmp/huggingface \
    TORCHINDUCTOR_CACHE_DIR=/tmp/torchinductor \
    TRITON_CACHE_DIR=/tmp/triton \
    RM_HOST=0.0.0.0 \
    RM_PORT=8000 \
    RM_MODEL=/model
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['RM_PORT'] + '/livez', timeout=4)"]
ENTRYPOINT ["python", "-m", "service"]
