"""The files of a container: those put into `/upshot` before the start, and those read from it after the exit."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path, PurePosixPath

from upshot.backends.docker.containers import UPSHOT
from upshot.backends.protocol import OutputUnreadable
from upshot.domain.job import EVENT_FILE, INPUT_DIR, OUTPUT_DIR, OUTPUTS_FILE, SECRETS_DIR

#: Room for a tar's headers beyond the content limit, extended headers included.
TAR_BYTES = 128 * 1024

_CHUNK_BYTES = 1024 * 1024

_READABLE_BY_ALL = 0o444
_READABLE_BY_OWNER = 0o400
_PASSWD_FIELDS = 7
_UID_FIELD = 2
_KINDS: Mapping[bytes, str] = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.DIRTYPE: "a directory",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.GNUTYPE_SPARSE: "a sparse file in GNU's tar format",
}


def upshot_files(event: bytes, secrets: Mapping[str, str], owner_uid: int | None, *, with_input: bool = True) -> bytes:
    """
    Return a tar with the initial content of `/upshot`, without the files of the input.

    Args:
        event: Content of the event file.
        secrets: Content of the secret files, by file name.
        owner_uid: User id that the job runs as; only this user can read the secrets. None if it is unknown:
            then every user of the container can read them.
        with_input: Whether to create the directory of the input. It exists if it is a mount.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, mode in ((INPUT_DIR, 0o755), (OUTPUT_DIR, 0o777), (SECRETS_DIR, 0o755)):
            if path == INPUT_DIR and not with_input:
                continue
            directory = tarfile.TarInfo(_relative(path))
            directory.type, directory.mode = tarfile.DIRTYPE, mode
            tar.addfile(directory)
        _add_file(tar, EVENT_FILE, event, 0o644)
        for name, text in secrets.items():
            mode = _READABLE_BY_ALL if owner_uid is None else _READABLE_BY_OWNER
            _add_file(tar, f"{SECRETS_DIR}/{name}", text.encode(), mode, owner_uid or 0)
        end = tar.offset + 2 * tarfile.BLOCKSIZE
    # Leave out the padding to a full record: Podman closes the connection after the two blocks that end a tar.
    return buffer.getvalue()[:end]


async def input_tar(directory: Path) -> AsyncIterator[bytes]:
    """
    Yield a tar with the files of an input, in chunks of about `_CHUNK_BYTES`.

    Args:
        directory: Contains directories and regular files that do not change.
    """
    chunks = _chunks_of_tar(directory)
    while chunk := await asyncio.to_thread(next, chunks, b""):
        yield chunk


def _chunks_of_tar(directory: Path) -> Iterator[bytes]:
    chunk = bytearray()
    for folder, folders, names in os.walk(directory, onerror=_raise):
        folders.sort()
        entry = tarfile.TarInfo(_relative(INPUT_DIR) + folder.removeprefix(str(directory)))
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        chunk += entry.tobuf()
        for name in sorted(names):
            with open(f"{folder}/{name}", "rb") as file:  # noqa: PTH123 - there may be many
                header = tarfile.TarInfo(f"{entry.name}/{name}")
                header.size, header.mode = os.fstat(file.fileno()).st_size, _READABLE_BY_ALL
                chunk += header.tobuf()
                while content := file.read(_CHUNK_BYTES):
                    chunk += content
                    if len(chunk) >= _CHUNK_BYTES:
                        yield bytes(chunk)
                        chunk.clear()
                chunk += bytes(-header.size % tarfile.BLOCKSIZE)
    yield bytes(chunk) + bytes(2 * tarfile.BLOCKSIZE)


def _raise(error: OSError) -> None:
    raise error


def _add_file(tar: tarfile.TarFile, path: str, content: bytes, mode: int, uid: int = 0) -> None:
    file = tarfile.TarInfo(_relative(path))
    file.size, file.mode, file.uid, file.gid = len(content), mode, uid, uid
    tar.addfile(file, io.BytesIO(content))


def _relative(path: str) -> str:
    return str(PurePosixPath(path).relative_to(UPSHOT))


def read_regular_file(tar: bytes, *, limit_bytes: int) -> bytes:
    """
    Return the content of the regular file that a tar begins with.

    Args:
        tar: The whole tar, or its beginning: `TAR_BYTES` more than the limit.
        limit_bytes: Maximum size of the content.

    Raises:
        OutputUnreadable: The first entry is not a regular file, or it is larger than the limit.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as opened:
            entry = opened.next()
            if entry is None:
                raise OutputUnreadable(f"{OUTPUTS_FILE} is not a regular file; write a regular file")
            if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                kind = _KINDS.get(entry.type, "not a regular file")
                raise OutputUnreadable(f"{OUTPUTS_FILE} is {kind}; write a regular file")
            if entry.size > limit_bytes:
                raise OutputUnreadable(f"{OUTPUTS_FILE} has {entry.size} bytes; the limit is {limit_bytes}")
            content = opened.extractfile(entry)
            return content.read() if content is not None else b""
    except tarfile.TarError as error:
        raise OutputUnreadable(f"{OUTPUTS_FILE} cannot be read: {error}") from error


def user_id(user: str, passwd: bytes | None) -> int | None:
    """
    Return the numeric id of a container's user; None if it is unknown.

    Args:
        user: The user as a container names it: empty, `uid`, `uid:gid` or a name.
        passwd: Content of the container's /etc/passwd; None if it does not have one.
    """
    name = user.partition(":")[0]
    if name in ("", "root"):
        return 0
    if name.isdecimal():
        return int(name)
    for line in (passwd or b"").decode("utf-8", "replace").split("\n"):
        fields = line.split(":")
        if len(fields) == _PASSWD_FIELDS and fields[0] == name and fields[_UID_FIELD].isdecimal():
            return int(fields[_UID_FIELD])
    return None
