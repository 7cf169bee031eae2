"""Measure artifacts: a large file and many small ones up and down with the SDK, its import, and the lineage."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bench.growth import database_url
from bench.measures import percentile
from bench.system import BenchSystem
from tests.system import TOKEN
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.schema import artifact_versions, artifacts, projects, run_inputs, run_outputs, runs

_CHUNK_BYTES = 1024 * 1024
_SMALL_BYTES = 1_000
_SAMPLES = 15
_DEPTH = 5
_ROWS_PER_STATEMENT = 1_000


@dataclass(frozen=True, slots=True)
class Transfer:
    """One transfer of a large file, and the yardstick in the same minute."""

    megabytes: float
    seconds: float
    script_seconds: float  #: of `bench.bare_transfer`
    memory_mb: float  #: highest resident memory of the client

    @property
    def relative_speed(self) -> float:
        """Speed relative to the yardstick's."""
        return self.script_seconds / self.seconds


@dataclass(frozen=True, slots=True)
class Artifacts:
    """The results."""

    upload: Transfer
    download: Transfer
    small_files: int
    small_seconds: float  #: of the upload of many small files
    small_again_seconds: float  #: of a second upload of the same
    small_download_seconds: float
    small_memory_mb: float  #: highest resident memory of the client in these three
    import_ms: float  #: `import upshot`, beside an empty program
    edges: int
    lineage_ms: tuple[
        float, float
    ]  #: median and worst of a depth of 5 in both directions, of the slower one of two roots


def measure_artifacts(system: BenchSystem, *, large_bytes: int, small_files: int, edges: int) -> Artifacts:
    """Measure a system whose web process runs."""
    folder = system.folder / "files"
    folder.mkdir()
    large = folder / "large.bin"
    _write_random(large, large_bytes)
    upload = _transfer(system, "upload", large, folder / "bare-upload.bin")
    download = _transfer(system, "download", large, folder / "bare-download.bin")
    large.unlink()
    small = folder / "small"
    _write_small(small, small_files)
    runs_of_small = [_client(system, "upload", "small", small) for _ in range(2)]
    runs_of_small.append(_client(system, "download", "small", folder / "small-copy"))
    shutil.rmtree(folder)
    roots = fill_lineage(system, edges)
    return Artifacts(
        upload=upload,
        download=download,
        small_files=small_files,
        small_seconds=runs_of_small[0]["seconds"],
        small_again_seconds=runs_of_small[1]["seconds"],
        small_download_seconds=runs_of_small[2]["seconds"],
        small_memory_mb=max(run["memory_mb"] for run in runs_of_small),
        import_ms=_import_ms(),
        edges=edges,
        lineage_ms=max(_lineage_ms(system, root) for root in roots),
    )


def _transfer(system: BenchSystem, direction: str, large: Path, copy: Path) -> Transfer:
    """Measure the yardstick, then the SDK."""
    script = _run(["bench.bare_transfer", direction, str(large), str(copy)], dict(os.environ))
    copy.unlink()
    os.sync()  # what one of the two has written must not slow down the other one
    target = large if direction == "upload" else large.with_name("copy")
    client = _client(system, direction, "large", target)
    if direction == "download":
        shutil.rmtree(target)
        shutil.rmtree(system.folder / "cache")
    os.sync()
    return Transfer(large.stat().st_size / 1e6, client["seconds"], script["seconds"], client["memory_mb"])


def _client(system: BenchSystem, work: str, name: str, path: Path) -> dict[str, float]:
    settings = {
        "UPSHOT_URL": system.url,
        "UPSHOT_TOKEN": TOKEN,
        "UPSHOT_CACHE_DIR": str(system.folder / "cache"),
        "HOME": str(system.folder),
    }
    return _run(["bench.artifact_client", work, name, str(path)], system.environment | settings)


def _run(arguments: list[str], environment: dict[str, str]) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        check=True,
    )
    results: dict[str, float] = json.loads(done.stdout)
    return results


def _write_random(path: Path, size: int) -> None:
    source = random.Random(1)
    with path.open("wb") as file:
        for _ in range(0, size, _CHUNK_BYTES):
            file.write(source.randbytes(_CHUNK_BYTES))
        file.truncate(size)
        os.fsync(file.fileno())


def _write_small(folder: Path, count: int) -> None:
    source = random.Random(2)
    for number in range(count):
        path = folder / f"{number % 100:02}" / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.randbytes(_SMALL_BYTES))
    os.sync()


def _import_ms() -> float:
    """Return what `import upshot` adds to the start of Python: the median of several."""

    def median(program: str) -> float:
        took = []
        for _ in range(_SAMPLES):
            started = time.monotonic()
            subprocess.run([sys.executable, "-c", program], check=True)
            took.append((time.monotonic() - started) * 1000)
        return percentile(sorted(took), 50)

    return median("import upshot") - median("pass")


def fill_lineage(system: BenchSystem, edges: int) -> tuple[str, str]:
    """
    Insert runs and artifact versions: every run uses three earlier versions and logs one.

    Returns:
        The ids of a version in the middle, and of one that every run uses.
    """
    database = Database(database_url(system))
    now = datetime.now(UTC)
    count = edges // 4
    with database.engine.begin() as connection:
        connection.execute(sa.insert(projects), {"id": "prj_lineage", "name": "lineage"})
        artifact = {"id": "art_lineage", "project_id": "prj_lineage", "name": "net", "artifact_type": "model"}
        connection.execute(sa.insert(artifacts), artifact | {"next_number": count})
        for rows in _batches(count):
            connection.execute(sa.insert(runs), [_run_row(number, now) for number in rows])
            connection.execute(sa.insert(artifact_versions), [_version_row(number, now) for number in rows])
            connection.execute(sa.insert(run_outputs), [_edge(number, number) for number in rows])
            used = [_edge(number, earlier) for number in rows for earlier in _earlier(number)]
            if used:
                connection.execute(sa.insert(run_inputs), used)
    if database.engine.dialect.name == "postgresql":  # as its autovacuum does soon
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
    database.close()
    return _version_id(count // 2), _version_id(0)


def _batches(count: int) -> Iterator[range]:
    for first in range(0, count, _ROWS_PER_STATEMENT):
        yield range(first, min(count, first + _ROWS_PER_STATEMENT))


def _earlier(number: int) -> set[int]:
    """Return up to three earlier versions: the first one, which every run uses, and two that make the graph deep."""
    return {earlier for earlier in (0, number - 1, number - 7) if 0 <= earlier < number}


def _version_id(number: int) -> str:
    return f"ver_lineage{number:09}"


def _run_id(number: int) -> str:
    return f"run_lineage{number:09}"


def _edge(run: int, version: int) -> dict[str, str]:
    return {"run_id": _run_id(run), "artifact_version_id": _version_id(version)}


def _run_row(number: int, now: datetime) -> dict[str, Any]:
    return {
        "id": _run_id(number),
        "project_id": "prj_lineage",
        "run_id": f"r{number}",
        "name": f"run {number}",
        "job_type": "training",
        "state": "finished",
        "config": {"lr": 0.1},
        "summary": {},
        "tags": [],
        "notes": "",
        "info": {},
        "created_at": now,
        "created_by": "bench",
        "finished_at": now,
    }


def _version_row(number: int, now: datetime) -> dict[str, Any]:
    return {
        "id": _version_id(number),
        "artifact_id": "art_lineage",
        "number": number,
        "digest": "sha256:" + "0" * 64,
        "metadata": {"accuracy": 0.9},
        "description": "",
        "tags": [],
        "created_at": now,
        "created_by": "bench",
        "run_id": _run_id(number),
    }


def _lineage_ms(system: BenchSystem, root: str) -> tuple[float, float]:
    took = []
    for _ in range(_SAMPLES + 1):
        started = time.monotonic()
        answer = system.api.get("/lineage", params={"reference": root, "direction": "both", "depth": _DEPTH})
        took.append((time.monotonic() - started) * 1000)
        assert len(answer.json()["edges"]) > _DEPTH, answer.text
    took = sorted(took[1:])  # the first one also connects
    return percentile(took, 50), took[-1]
