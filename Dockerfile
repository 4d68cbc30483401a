# syntax=docker/dockerfile:1
# cospec's server on a CPU; docs/containers.md says how to build and run it.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
# Builds for CPUs alone; PyPI, https://pypi.org/simple, has those for CUDA, which are much larger.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Extras of cospec: serve, or serve,ray
ARG EXTRAS=serve
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/cospec
WORKDIR /source
# torch alone and first: it is large, and changes less often than what stands below.
COPY constraints.txt ./
RUN /opt/cospec/bin/pip install --constraint constraints.txt --index-url "$TORCH_INDEX" torch
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/cospec/bin/pip install --constraint constraints.txt ".[$EXTRAS]"

FROM python:${PYTHON}-slim
RUN useradd --create-home --uid 1000 cospec && install -d -o cospec /models
COPY --from=build /opt/cospec /opt/cospec
# Models of the hub are kept in the volume; folders and ensemble files may lie in it too.
ENV PATH=/opt/cospec/bin:$PATH HF_HOME=/models/hub PYTHONUNBUFFERED=1 COSPEC_HOST=0.0.0.0 COSPEC_PORT=8000
# By number, so that a cluster can see that it is not root.
USER 1000
WORKDIR /models
VOLUME /models
EXPOSE 8000
# Models may take minutes to load, and more to be downloaded.
HEALTHCHECK --interval=15s --timeout=5s --start-period=10m --retries=4 \
    CMD ["python", "-c", "from os import environ as e; from urllib.request import urlopen; \
urlopen('http://127.0.0.1:' + e['COSPEC_PORT'] + '/health', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["cospec"]
CMD ["serve"]
