# syntax=docker/dockerfile:1
FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/upshot
WORKDIR /build
# Copy the lock files first, so that a change of the code does not install the dependencies again.
COPY requirements/upshot.lock requirements/dev.lock requirements/
# The cluster's client is an extra. dev.lock has its version.
RUN /opt/upshot/bin/pip install -r requirements/upshot.lock && \
    /opt/upshot/bin/pip install -c requirements/dev.lock kubernetes-asyncio
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY automations automations
COPY examples examples
RUN /opt/upshot/bin/pip install --no-deps .

FROM python:3.13-slim
LABEL org.opencontainers.image.title="Upshot" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/upshot /opt/upshot
# The uid is fixed, so that you can change the owner of a volume: chown 10001 /srv/upshot
# A container with another uid, as OpenShift chooses one, has the group 0 and may write to the same directories.
RUN useradd --uid 10001 --gid 0 --create-home upshot && \
    install -d -o 10001 -g 0 -m 0770 /data && chmod 0770 /home/upshot
USER 10001:0
WORKDIR /home/upshot
ENV PATH=/opt/upshot/bin:$PATH \
    HOME=/home/upshot \
    PYTHONUNBUFFERED=1 \
    UPSHOT_DATA=/data \
    UPSHOT_AUTOMATIONS=/automations \
    UPSHOT_HEARTBEAT_FILE=/tmp/upshot-worker \
    UPSHOT_HOST=0.0.0.0 \
    UPSHOT_PORT=8080
VOLUME /data
EXPOSE 8080
# It checks the web process or the worker, whichever the container runs.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["upshot", "health"]
# As process 1, Python would ignore SIGTERM without a handler. Upshot installs one and stops cleanly.
STOPSIGNAL SIGTERM
ENTRYPOINT ["upshot"]
CMD ["serve"]
