# The stages of pytorch/pytorch's own Dockerfile, for its `runtime` images.
ARG CUDA
FROM debian:bookworm-slim AS dev-base
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get update && apt-get install --yes --no-install-recommends \
        build-essential ca-certificates ccache cmake curl git libjpeg-dev libpng-dev \
        python3 python3-pip python-is-python3 python3-dev
RUN rm -f /usr/lib/python3*/EXTERNALLY-MANAGED
RUN /usr/sbin/update-ccache-symlinks \
    && mkdir /opt/ccache && ccache --set-config=cache_dir=/opt/ccache

FROM dev-base AS python-deps
RUN --mount=type=bind,target=/context \
    pip3 install --no-index --find-links /context/extras cmake pyyaml ipython \
    && pip3 install --no-index --find-links /context/wheels numpy

FROM python-deps AS pytorch-installs
RUN --mount=type=bind,target=/context \
    pip3 install --no-index --find-links /context/wheels --requirement /context/requirements.txt
RUN python3 -c 'import torch'

FROM debian:bookworm-slim AS official
ARG CUDA
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get update && apt-get install --yes --no-install-recommends \
        ca-certificates libjpeg-dev libpng-dev python-is-python3 python3 python3-dev python3-pip
COPY --from=pytorch-installs /usr/local/lib/python3.11 /usr/local/lib/python3.11
COPY --from=pytorch-installs /usr/local/bin /usr/local/bin
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    if [ -n "$CUDA" ]; then \
        apt-get update && apt-get install --yes --no-install-recommends gcc; \
    fi
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /workspace
