"""
The image that the sample jobs run in, made on this machine: not every machine reaches an image registry.

On Linux it holds this machine's own Python and the jobs' scripts; elsewhere, where containers cannot run
the machine's own programs, it is built from `python:3-slim`. It is made once for each content, and found
by its tag from then on.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import platform
import sys
import tarfile
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from upshot.backends.docker.client import DockerApiError, DockerClient
from upshot.backends.docker.options import DEFAULT_SOCKET, read_settings
from upshot.backends.protocol import EngineUnavailable
from upshot.clock import stopwatch
from upshot.demo.host_python import interpreter, is_portable, python_environment, python_files
from upshot.demo.sample_files import examples
from upshot.errors import Unavailable

REPOSITORY = "upshot-example"
IMAGE = f"{REPOSITORY}:latest"  #: what the sample automations name
DEFAULT_HOST = f"unix://{DEFAULT_SOCKET}"
JOB_FOLDER = PurePosixPath("/job")

_RECIPE = "1"  # grows when the same files make another image
_LOCAL = "unix://"
_BASE = "python:3-slim"
_QUIET_SECONDS = 600.0  # of an engine that loads or pulls
_CHUNK_BYTES = 1024 * 1024
_BLOCK_BYTES = 512  # of tar
_File: TypeAlias = io.BufferedRandom | io.BytesIO
_ETC_PASSWD = b"root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n"


class NoEngine(Unavailable):
    """No Docker engine of this machine can be used; the text says why."""


@dataclass(frozen=True, slots=True)
class ExampleImage:
    """The image, ready."""

    name: str  #: with the tag of its content
    id: str  #: `sha256:…`
    how: str  #: where it came from, for people


def example_image(say: Callable[[str], None]) -> ExampleImage:
    """
    Find the image of the sample jobs on this machine's engine, or make it.

    Args:
        say: Told what takes a while.

    Raises:
        NoEngine: No engine answers, or one on another machine does.
        Unavailable: It answers, and the image cannot be made.
    """
    host = engine_host()
    if not host.startswith(_LOCAL):
        raise NoEngine(f"DOCKER_HOST is {host}, another machine, whose containers cannot call back here")
    return asyncio.run(_example_image(host, say))


async def _example_image(host: str, say: Callable[[str], None]) -> ExampleImage:
    async with _engine(host) as engine:
        try:
            await engine.ask("version")
        except EngineUnavailable as error:
            raise NoEngine(f"no Docker engine answers: {error}") from error
        try:
            return await _find_or_make(engine, say)
        except (EngineUnavailable, DockerApiError) as error:
            raise Unavailable(f"the image of the sample jobs cannot be made: {error}") from error


@asynccontextmanager
async def _engine(host: str) -> AsyncIterator[DockerClient]:
    engine = DockerClient(read_settings({"host": host}))
    try:
        yield engine
    finally:
        await engine.close()


def remove_containers(label: str) -> None:
    """Remove all containers with a label (`name=value`), and their volumes, as far as the engine answers."""
    with suppress(EngineUnavailable, DockerApiError):
        asyncio.run(_remove_containers(label))


async def _remove_containers(label: str) -> None:
    async with _engine(engine_host()) as engine:
        filters = json.dumps({"label": [label]})
        for container in await engine.ask("containers/json", params={"all": "1", "filters": filters}):
            await engine.ask(f"containers/{container['Id']}", "DELETE", params={"force": "1", "v": "1"})


def engine_host() -> str:
    """Where this machine's engine is: as Docker's own programs have it, or where it always is."""
    return os.environ.get("DOCKER_HOST") or DEFAULT_HOST  # noqa: TID251 - no setting of ours


async def _find_or_make(engine: DockerClient, say: Callable[[str], None]) -> ExampleImage:
    began = stopwatch()
    scripts = job_files()
    name = f"{REPOSITORY}:{_key(scripts)}"
    found = await _find(engine, name)
    if found:
        how = "made earlier"
    elif is_portable():
        how = f"this machine's Python {platform.python_version()} and the scripts in {examples()}"
        say(f"making the image of the sample jobs: {how}")
        await _load(engine, name, scripts)
    else:
        how = f"{_BASE} and the scripts in {examples()}"
        say(f"building the image of the sample jobs: {how}; it is pulled, which may take a minute")
        await _build(engine, name, scripts)
    repository, _, tag = IMAGE.partition(":")
    await engine.ask(f"images/{name}/tag", "POST", params={"repo": repository, "tag": tag})
    id_ = found or (await engine.ask(f"images/{name}/json"))["Id"]
    return ExampleImage(name, id_, how if found else f"{how}; it took {stopwatch() - began:.1f} s")


def job_files() -> dict[PurePosixPath, Path]:
    """What the sample jobs run and read: by path in the image, path here."""
    found = [path for folder in ("evaluate", "quantize") for path in (examples() / folder).iterdir()]
    return {JOB_FOLDER / path.name: path for path in found if path.suffix in {".py", ".csv"}}


def _key(scripts: Mapping[PurePosixPath, Path]) -> str:
    """Names the content: of the scripts by what is in them, of Python by what tells one from another."""
    python = interpreter().stat()
    key = hashlib.sha256()
    for part in (_RECIPE, sys.version, platform.machine(), str(python.st_size), str(python.st_mtime_ns)):
        key.update(f"{part}\n".encode())
    for there, here in sorted(scripts.items()):
        key.update(f"{there}\n{hashlib.sha256(here.read_bytes()).hexdigest()}\n".encode())
    return key.hexdigest()[:12]


async def _find(engine: DockerClient, name: str) -> str | None:
    try:
        return str((await engine.ask(f"images/{name}/json"))["Id"])
    except DockerApiError as refusal:
        if refusal.is_missing:
            return None
        raise


async def _send(
    engine: DockerClient, path: str, archive: bytes | AsyncIterator[bytes], params: Mapping[str, str] | None = None
) -> None:
    """Have the engine make an image of an archive; what goes wrong it says in the middle of its answer."""
    async with engine.answer(
        path,
        "POST",
        params=params,
        data=archive,
        headers={"Content-Type": "application/x-tar"},
        quiet_seconds=_QUIET_SECONDS,
    ) as response:
        async for said in engine.values(response):
            if "error" in said:
                raise Unavailable(f"the image of the sample jobs cannot be made: {said['error']}")


# --- from this machine's Python ---------------------------------------------------------------------


async def _load(engine: DockerClient, name: str, scripts: Mapping[PurePosixPath, Path]) -> None:
    """Load an archive as `docker save` writes it: two layers, of which the scripts' is small."""
    python = python_files()
    with tempfile.TemporaryFile() as below, tempfile.TemporaryFile() as above:
        _write_layer(below, python, texts={PurePosixPath("/etc/passwd"): _ETC_PASSWD}, folders=["/tmp"])  # noqa: S108
        _write_layer(above, scripts)
        config = _config(python_environment(python), [_digest(below), _digest(above)])
        await _send(engine, "images/load", _archive(name, config, [below, above]))


def _write_layer(
    file: _File,
    files: Mapping[PurePosixPath, Path],
    *,
    texts: Mapping[PurePosixPath, bytes] | None = None,
    folders: Iterable[str] = (),
) -> None:
    """A layer as tar; the same files give the same bytes, so that layers which are there are not kept twice."""
    parents = {folder for path in (*files, *(texts or ())) for folder in path.parents if folder.name}
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(parents):
            tar.addfile(_entry(path, 0o755, kind=tarfile.DIRTYPE))
        for folder in folders:
            tar.addfile(_entry(PurePosixPath(folder), 0o1777, kind=tarfile.DIRTYPE))
        for path, text in (texts or {}).items():
            tar.addfile(_entry(path, 0o644, len(text)), io.BytesIO(text))
        for path, source in sorted(files.items()):
            with source.open("rb") as content:
                tar.addfile(_entry(path, 0o755, source.stat().st_size), content)


def _entry(path: PurePosixPath, mode: int, size: int = 0, *, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(str(path.relative_to("/")))
    entry.mode, entry.size, entry.type = mode, size, kind
    return entry


def _digest(file: _File) -> str:
    file.seek(0)
    return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _config(environment: Mapping[str, str], layers: list[str]) -> bytes:
    """What an image is, as the image specification of the Open Container Initiative has it."""
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return json.dumps(
        {
            "created": "1970-01-01T00:00:00Z",  # so that the same content is the same image, whenever it was made
            "architecture": architecture,
            "os": "linux",
            "config": {
                "Env": [f"{name}={value}" for name, value in environment.items()],
                "Cmd": ["python3"],
                "WorkingDir": str(JOB_FOLDER),
            },
            "rootfs": {"type": "layers", "diff_ids": layers},
        }
    ).encode()


async def _archive(name: str, config: bytes, layers: list[_File]) -> AsyncIterator[bytes]:
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    layer_names = [f"{number}.tar" for number in range(len(layers))]
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": layer_names}]).encode()
    files = {
        "manifest.json": io.BytesIO(manifest),
        config_name: io.BytesIO(config),
        **dict(zip(layer_names, layers, strict=True)),
    }
    for file_name, file in files.items():
        for chunk in _packed(file_name, file):
            yield chunk
    yield bytes(2 * _BLOCK_BYTES)


def _packed(name: str, file: _File) -> Iterator[bytes]:
    """One file of a tar that is written as it is sent."""
    entry = tarfile.TarInfo(name)
    entry.size = file.seek(0, io.SEEK_END)
    file.seek(0)
    yield entry.tobuf(tarfile.GNU_FORMAT)
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk
    yield bytes(-entry.size % _BLOCK_BYTES)


# --- where containers cannot run this machine's programs --------------------------------------------


async def _build(engine: DockerClient, name: str, scripts: Mapping[PurePosixPath, Path]) -> None:
    dockerfile = f"FROM {_BASE}\nWORKDIR {JOB_FOLDER}\nCOPY *.py *.csv ./\n".encode()
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w:gz") as tar:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(dockerfile)
        tar.addfile(entry, io.BytesIO(dockerfile))
        for there, here in scripts.items():
            tar.add(here, there.name)
    await _send(engine, "build", context.getvalue(), {"t": name})
