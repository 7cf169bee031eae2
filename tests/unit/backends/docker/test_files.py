"""Reading a file from a tar that a job may have influenced, and writing the tar for `/upshot`."""

import io
import tarfile

import pytest

from upshot.backends.docker.files import TAR_BYTES, read_regular_file, upshot_files, user_id
from upshot.backends.protocol import OutputUnreadable

LIMIT = 1000


def tar_of(content: bytes = b"", *, tar_format: int = tarfile.PAX_FORMAT, **fields) -> bytes:
    """Return a tar with one entry."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        entry = tarfile.TarInfo("outputs.json")
        entry.size = len(content)
        for name, value in fields.items():
            setattr(entry, name, value)
        tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("content", [b"", b"{}", b"x" * LIMIT])
def test_regular_file(content, tar_format):
    """A regular file is read from every format of tar."""
    assert read_regular_file(tar_of(content, tar_format=tar_format), limit_bytes=LIMIT) == content


def test_extended_headers():
    """Extended headers before the file, which engines write for times and attributes, are skipped."""
    attributes = {"mtime": "1.5", "SCHILY.xattr.user.long": "x" * 60_000}

    assert read_regular_file(tar_of(b"{}", pax_headers=attributes), limit_bytes=LIMIT) == b"{}"


@pytest.mark.parametrize(
    ("entry_type", "kind"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.DIRTYPE, "a directory"),
        (tarfile.FIFOTYPE, "a named pipe"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.GNUTYPE_SPARSE, "a sparse file"),
        (b"Z", "not a regular file"),
    ],
)
def test_not_a_regular_file(entry_type, kind):
    """An entry that is not a regular file is an error that names its kind."""
    tar = tar_of(type=entry_type, linkname="/etc/passwd", tar_format=tarfile.GNU_FORMAT)

    with pytest.raises(OutputUnreadable, match=kind):
        read_regular_file(tar, limit_bytes=LIMIT)


@pytest.mark.parametrize("size", [LIMIT + 1, 2**33, 2**62])
def test_size_over_the_limit(size):
    """A file over the limit is rejected by the size in its header, without its content."""
    entry = tarfile.TarInfo("outputs.json")
    entry.size = size
    header = entry.tobuf(tarfile.GNU_FORMAT)

    with pytest.raises(OutputUnreadable, match=str(size)):
        read_regular_file((header + bytes(TAR_BYTES))[: LIMIT + TAR_BYTES], limit_bytes=LIMIT)


@pytest.mark.parametrize("tar", [b"", bytes(1024), b"no tar at all" * 100, tar_of(b"x" * 900)[:800]])
def test_invalid_tar(tar):
    """An invalid or incomplete tar is unreadable."""
    with pytest.raises(OutputUnreadable):
        read_regular_file(tar, limit_bytes=LIMIT)


def test_files_in_a_container():
    """Directories and files have the permissions that a job needs, and other users cannot read the secrets."""
    with tarfile.open(fileobj=io.BytesIO(upshot_files(b"{}", {"token": "s3cret"}, 1234))) as tar:
        found = {entry.name: (entry.isdir(), oct(entry.mode), entry.uid) for entry in tar}
        assert tar.extractfile("secrets/token").read() == b"s3cret"

    assert found == {
        "input": (True, "0o755", 0),
        "output": (True, "0o777", 0),
        "secrets": (True, "0o755", 0),
        "event.json": (False, "0o644", 0),
        "secrets/token": (False, "0o400", 1234),
    }


@pytest.mark.parametrize(
    ("user", "number"),
    [
        ("", 0),
        ("root", 0),
        ("0:5", 0),
        ("1000", 1000),
        ("1000:100", 1000),
        ("ml", 17),
        ("ml:staff", 17),
        ("nobody", None),
    ],
)
def test_user_id(user, number):
    """A number is the id itself, a name is looked up in the image's /etc/passwd, and an unknown name has no id."""
    passwd = b"broken line\nml:x:17:17::/:/bin/sh\nodd:x:no:1::/:\n"

    assert user_id(user, passwd) == number
    assert user_id("ml", None) is None
