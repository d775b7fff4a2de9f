# The two stages of AWS's deep-learning-containers: a builder with uv, and a runtime with its venv.
FROM debian:bookworm-slim AS builder
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get update && apt-get install --yes --no-install-recommends python3
COPY uv /usr/local/bin/uv
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy VIRTUAL_ENV=/opt/venv
RUN --mount=type=cache,target=/root/.cache/uv --mount=type=bind,target=/context \
    uv venv /opt/venv \
    && uv pip install --no-index --find-links /context/wheels \
        --requirement /context/requirements.txt

FROM debian:bookworm-slim
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get update && apt-get install --yes --no-install-recommends ca-certificates python3
COPY --from=builder /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
