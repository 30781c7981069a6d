# The project and its set-up in an image. docs/containers.md says how it is built and run.
#
# BASE: a Debian or Ubuntu whose Python is 3.10 to 3.13. One of NVIDIA's CUDA images gets torch with CUDA, any other torch for CPUs.
ARG BASE=debian:12-slim
FROM ${BASE}

RUN apt-get update \
  && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
  && rm -rf /var/lib/apt/lists/*

# USER_ID: whose files a run leaves in folders of the host; an image's own user may have the same.
ARG USER_ID=1000
RUN useradd --non-unique --uid "${USER_ID}" --create-home lora && install -d -o lora -g lora /lora-nlg

USER lora
WORKDIR /lora-nlg
COPY --chown=lora:lora . .
RUN bash scripts/00_setup.sh && rm -rf ~/.cache

CMD ["bash", "scripts/run_all.sh"]
