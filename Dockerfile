# syntax=docker/dockerfile:1
FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/upshot
WORKDIR /build
# Copy the lock file first, so that a change of the code does not install the dependencies again.
COPY requirements/upshot.lock requirements/
RUN /opt/upshot/bin/pip install -r requirements/upshot.lock
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
RUN useradd --uid 10001 --create-home upshot && install -d -o upshot -g upshot -m 0700 /data
USER upshot
WORKDIR /home/upshot
ENV PATH=/opt/upshot/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    UPSHOT_DATA=/data \
    UPSHOT_AUTOMATIONS=/automations \
    UPSHOT_HOST=0.0.0.0 \
    UPSHOT_PORT=8080
VOLUME /data
EXPOSE 8080
# This checks the web process. docker-compose.yml explains how workers are checked.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
# As process 1, Python would ignore SIGTERM without a handler. Upshot installs one and stops cleanly.
STOPSIGNAL SIGTERM
ENTRYPOINT ["upshot"]
CMD ["serve"]
