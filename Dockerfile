# A server on a CPU, ready to play:
#   docker build -t shotstream_rt .
#   docker run --rm -p 8716:8716 -v shotstream_films:/films shotstream_rt
# Open the address that it prints. docs/operate.md has GPUs, tokens and films that outlive the container.

ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG TORCH=torch==2.13.0
# https://download.pytorch.org/whl/cu130 for GPUs
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# serve,gpu for GPUs
ARG EXTRAS=serve
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN sh /source/docker/install.sh /source /opt/shotstream

FROM python:${PYTHON}-slim
# A compiler for kernels that are built for the GPU that is there; nothing on a CPU.
ARG PACKAGES=""
RUN if [ -n "$PACKAGES" ]; then apt-get update && apt-get install --yes --no-install-recommends $PACKAGES \
        && rm -rf /var/lib/apt/lists/*; fi \
    && useradd --uid 10001 --create-home shotstream \
    && install --directory --owner shotstream --mode 700 /films
COPY --from=build /opt/shotstream /opt/shotstream
ENV PATH=/opt/shotstream/bin:$PATH MALLOC_ARENA_MAX=1 PYTHONUNBUFFERED=1
USER shotstream
WORKDIR /home/shotstream
VOLUME /films
EXPOSE 8716
HEALTHCHECK CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8716/healthz', timeout=5)"]
ENTRYPOINT ["python", "-m", "shotstream_rt"]
CMD ["serve", "--host", "0.0.0.0", "--store", "/films"]
