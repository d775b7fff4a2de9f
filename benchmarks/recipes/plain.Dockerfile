# The commands of an installation guide: Debian's Python, and one `pip install`.
FROM debian:bookworm-slim
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get update && apt-get install --yes --no-install-recommends python3 python3-pip
RUN --mount=type=bind,target=/context \
    pip install --break-system-packages --no-index --find-links /context/wheels \
        --requirement /context/requirements.txt
