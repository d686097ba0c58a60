# docker build --target cpu -t ip2pbatch .       or --target cuda, for machines with an NVIDIA GPU and its container toolkit
# docker run --rm -v "$PWD:/work" -v ip2pbatch-cache:/cache ip2pbatch run recipe.yaml
# docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/work" -v ip2pbatch-cache:/cache ip2pbatch:cuda run recipe.yaml
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY ip2pbatch ip2pbatch
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM python:${PYTHON}-slim AS base
# Models, what was measured of this machine, and compiled kernels; writable for whoever `docker run --user` names.
ENV HF_HOME=/cache/huggingface XDG_CACHE_HOME=/cache TORCHINDUCTOR_CACHE_DIR=/cache/inductor TRITON_CACHE_DIR=/cache/triton \
    HOME=/home/ip2pbatch USER=ip2pbatch PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --uid 1000 --create-home ip2pbatch && install -d -m 1777 /cache && install -d -o ip2pbatch /work
COPY --from=wheel /wheel /wheel
ENTRYPOINT ["ip2pbatch"]
CMD ["--help"]
VOLUME /cache
WORKDIR /work
HEALTHCHECK --interval=10m --timeout=2m --start-period=1m CMD ["ip2pbatch", "doctor"]

# TORCH_INDEX: where torch's CPU builds are, which torch's own page for getting started names. Without it pip takes the build that
# the package index has, on Linux x86-64 the one for CUDA: it works on a CPU too, and is gigabytes larger.
FROM base AS cpu
ARG TORCH_INDEX=
# hadolint ignore=DL3013
RUN pip install ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} /wheel/*.whl
USER 1000

# torch brings CUDA's libraries, the driver comes from the host, and Triton compiles its launchers with gcc.
FROM base AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN pip install /wheel/*.whl
USER 1000
