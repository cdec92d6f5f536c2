# Image of the gateway: the server without an engine, plus the cluster client. docs/images.md describes the build and the
# rules for all images.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
COPY deploy/images/steps/prepare pins/images/build.txt pins/uv.txt /build/
RUN --mount=type=secret,id=index --mount=type=secret,id=ca /build/prepare

FROM build AS code
COPY deploy/images/steps/package /build/
COPY whispermodel /build/whispermodel
COPY cluster /build/cluster
COPY inference /build/inference
RUN /build/package /build/whispermodel /build/cluster /build/inference

# The installer is bind-mounted from the build stage, so it is not part of the image.
FROM ${BASE} AS dependencies
COPY deploy/images/steps/install pins/images/gateway.txt /opt/steps/
RUN --mount=type=secret,id=index --mount=type=secret,id=ca --mount=type=bind,from=build,source=/build,target=/build \
    /opt/steps/install /opt/steps/gateway.txt \
# The Kubernetes client has 1,800 generated modules; keeping bytecode only for those that are imported saves 45 MB.
 && rm -r /opt/whisper/lib/python3*/site-packages/kubernetes/client/*/__pycache__ \
        /opt/whisper/lib/python3*/site-packages/kubernetes/aio/client/*/__pycache__ \
 && /opt/whisper/bin/python -c 'from kubernetes.aio import client, config; client.ApiClient'

FROM dependencies AS gateway
COPY --from=build /usr/bin/tini-static /usr/bin/tini
COPY --from=build /usr/share/doc/tini/copyright /usr/share/doc/tini/copyright
COPY deploy/images/steps/settle /opt/steps/
RUN /opt/steps/settle /var/lib/whisper && rm -r /opt/steps
# The virtual environment is merged on top with only our packages, so a code change replaces just this layer.
COPY --from=code /opt/whisper /opt/whisper
ENV PATH=/opt/whisper/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    WHISPER_HOST=0.0.0.0 \
    WHISPER_DATA_DIR=/var/lib/whisper
USER 65532:65532
EXPOSE 8002
# -s: reap orphans even if tini is not PID 1, as with shareProcessNamespace.
ENTRYPOINT ["/usr/bin/tini", "-s", "--", "whisper-inference"]
CMD ["gateway"]
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="whisper-gateway" \
      org.opencontainers.image.description="Stores requests for Whisper models in a cluster and wakes the models" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
