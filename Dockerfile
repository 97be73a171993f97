# statecar's image: an interpreter, the packages of uv.lock (those for MCP servers and for traces too), statecar. For both
# architectures, from the repository root:
#
#   docker buildx build --platform linux/amd64,linux/arm64 --tag REGISTRY/statecar:0.1.0 --push .
#
# Tags move. A release pins what they mean that day, each by the digest of its index, which serves every architecture
# (docker buildx imagetools inspect python:3.13-slim-trixie prints it):
#
#   --build-arg PYTHON=3.13-slim-trixie@sha256:... --build-arg UV=0.13.9@sha256:...
#
# SOURCE is the address of the repository, which registries show. Python is the newest that the tests run these steps
# with; 3.14 has every wheel too.
ARG PYTHON=3.13-slim-trixie
ARG UV=0.13.9

FROM ghcr.io/astral-sh/uv:${UV} AS uv

FROM python:${PYTHON} AS build
COPY --from=uv /uv /usr/local/bin/uv
# The environment uses the interpreter of the image, which lies at the same path in both stages, and no other. Its
# bytecode is valid whatever happens to the times of the files: with a read-only root it could not be written again.
ENV UV_PROJECT_ENVIRONMENT=/app \
    UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1 \
    PYC_INVALIDATION_MODE=UNCHECKED_HASH
WORKDIR /src
COPY pyproject.toml uv.lock ./
RUN --mount=type=cache,target=/root/.cache/uv uv sync --locked --no-dev --extra mcp --extra otel --extra zstd --no-install-project
COPY README.md LICENSE ./
COPY proxy ./proxy
RUN --mount=type=cache,target=/root/.cache/uv uv sync --locked --no-dev --extra mcp --extra otel --extra zstd --no-editable

FROM python:${PYTHON}
ARG VERSION=0.1.0
ARG SOURCE
LABEL org.opencontainers.image.title="statecar" \
      org.opencontainers.image.description="The Responses and Conversations APIs in front of a chat-completions server" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /app /app
# The base image comes without the bytecode of its standard library. The first run writes what statecar needs of it,
# which halves the time and the CPU of every start (1.0 s to 0.5 s here).
RUN /app/bin/statecar version \
 && install -d -o 10001 -g 10001 -m 0700 /var/lib/statecar
ENV PATH=/app/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    STATECAR_HOST=0.0.0.0 \
    STATECAR_PORT=8080 \
    STATECAR_DATA_DIR=/var/lib/statecar
USER 10001:10001
EXPOSE 8080
# No HEALTHCHECK: Kubernetes ignores it, and whoever runs the image elsewhere knows which of /health and /ready is meant.
ENTRYPOINT ["statecar"]
CMD ["serve"]
