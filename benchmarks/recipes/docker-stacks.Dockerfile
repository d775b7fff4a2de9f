# What jupyter/docker-stacks' pytorch-notebook does beneath its notebook, and torch on it.
FROM debian:bookworm-slim
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get update --yes && apt-get upgrade --yes \
    && apt-get install --yes --no-install-recommends \
        ca-certificates locales netbase python3 python3-venv sudo tini wget \
    && echo "en_US.UTF-8 UTF-8" >/etc/locale.gen && locale-gen
RUN useradd --no-log-init --create-home --shell /bin/bash --uid 1000 --no-user-group jovyan \
    && mkdir -p /opt/conda && chown jovyan:100 /opt/conda && chmod g+rws /opt/conda
USER 1000
RUN python3 -m venv /opt/conda
ENV PATH=/opt/conda/bin:$PATH
RUN --mount=type=bind,target=/context \
    pip install --no-cache-dir --no-index --find-links /context/extras jupyter-core
RUN --mount=type=bind,target=/context \
    pip install --no-cache-dir --no-index --find-links /context/wheels \
        --requirement /context/requirements.txt
