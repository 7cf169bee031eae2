"""The files of a container: what is put into `/upshot` before it starts, and read out of it after the end."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import PurePosixPath

from upshot.backends.docker.containers import UPSHOT
from upshot.backends.protocol import OutputUnreadable
from upshot.domain.job import EVENT_FILE, INPUT_FOLDER, OUTPUT_FOLDER, OUTPUTS_FILE, SECRETS_FOLDER

#: Read beyond the limit: a tar's headers, and what a file may bring with it in further ones.
TAR_BYTES = 128 * 1024

_ANYBODY = 0o444
_OWNER_ALONE = 0o400
_PASSWD_FIELDS = 7
_UID_FIELD = 2
_KINDS: Mapping[bytes, str] = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.DIRTYPE: "a folder",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.GNUTYPE_SPARSE: "a sparse file in a form of its own",
}


def upshot_files(event: bytes, secrets: Mapping[str, str], owner: int | None) -> bytes:
    """
    A tar of what lies in `/upshot`.

    Args:
        event: Content of its file.
        secrets: Text by file name.
        owner: User id that the job runs as, who alone may read secrets; None: it is not known, so all may,
            which inside one container is the job as well.
    """
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        _add_folder(tar, INPUT_FOLDER, 0o755)
        _add_folder(tar, OUTPUT_FOLDER, 0o777)
        _add_folder(tar, SECRETS_FOLDER, 0o755)
        _add_file(tar, EVENT_FILE, event, 0o644)
        for name, text in secrets.items():
            mode = _ANYBODY if owner is None else _OWNER_ALONE
            _add_file(tar, f"{SECRETS_FOLDER}/{name}", text.encode(), mode, owner or 0)
        end = tar.offset + 2 * tarfile.BLOCKSIZE
    # Without the blocks that fill up a tape's record: Podman hangs up at the two that end a tar.
    return made.getvalue()[:end]


def _add_folder(tar: tarfile.TarFile, path: str, mode: int) -> None:
    folder = tarfile.TarInfo(_inside(path))
    folder.type, folder.mode = tarfile.DIRTYPE, mode
    tar.addfile(folder)


def _add_file(tar: tarfile.TarFile, path: str, content: bytes, mode: int, owner: int = 0) -> None:
    file = tarfile.TarInfo(_inside(path))
    file.size, file.mode, file.uid, file.gid = len(content), mode, owner, owner
    tar.addfile(file, io.BytesIO(content))


def _inside(path: str) -> str:
    return str(PurePosixPath(path).relative_to(UPSHOT))


def plain_file(tar: bytes, *, limit_bytes: int) -> bytes:
    """
    Content of the plain file that a tar begins with.

    Args:
        tar: Its beginning, `TAR_BYTES` longer than the limit, or all of it.
        limit_bytes: Of the content.

    Raises:
        OutputUnreadable: It is something else, or larger.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as opened:
            entry = opened.next()
            if entry is None:
                raise OutputUnreadable(f"{OUTPUTS_FILE} is no plain file; write one")
            if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                kind = _KINDS.get(entry.type, "no plain file")
                raise OutputUnreadable(f"{OUTPUTS_FILE} is {kind}; write a plain file")
            if entry.size > limit_bytes:
                raise OutputUnreadable(f"{OUTPUTS_FILE} has {entry.size} bytes; at most {limit_bytes} are taken")
            content = opened.extractfile(entry)
            return content.read() if content is not None else b""
    except tarfile.TarError as error:
        raise OutputUnreadable(f"{OUTPUTS_FILE} cannot be read: {error}") from error


def user_id(user: str, passwd: bytes | None) -> int | None:
    """
    The number of a container's user; None where it cannot be told.

    Args:
        user: As a container has it: empty, `uid`, `uid:gid`, a name.
        passwd: Content of the container's /etc/passwd; None: it has none.
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
