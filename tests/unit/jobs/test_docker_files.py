"""What comes out of a tar that a job may have had a hand in, and what goes into ours."""

import io
import tarfile

import pytest

from upshot.backends.docker.files import TAR_BYTES, plain_file, upshot_files, user_id
from upshot.backends.protocol import OutputUnreadable

LIMIT = 1000


def tar_of(content: bytes = b"", **entry) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=entry.pop("format", tarfile.PAX_FORMAT)) as tar:
        info = tarfile.TarInfo(entry.pop("name", "outputs.json"))
        info.size = len(content)
        for name, value in entry.items():
            setattr(info, name, value)
        tar.addfile(info, io.BytesIO(content))
    return made.getvalue()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("content", [b"", b"{}", b"x" * LIMIT])
def test_a_plain_file(content, form):
    """Its content is read, whatever form of tar an engine writes."""
    assert plain_file(tar_of(content, format=form), limit_bytes=LIMIT) == content


def test_a_plain_file_with_more_about_it():
    """Extended headers before it, as engines write them for times and attributes, are passed over."""
    attributes = {"mtime": "1.5", "SCHILY.xattr.user.long": "x" * 60_000}

    assert plain_file(tar_of(b"{}", pax_headers=attributes), limit_bytes=LIMIT) == b"{}"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.DIRTYPE, "a folder"),
        (tarfile.FIFOTYPE, "a named pipe"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.GNUTYPE_SPARSE, "a sparse file"),
        (b"Z", "no plain file"),
    ],
)
def test_what_is_no_plain_file(kind, said):
    """It is refused, and named."""
    tar = tar_of(type=kind, linkname="/etc/passwd", format=tarfile.GNU_FORMAT)

    with pytest.raises(OutputUnreadable, match=said):
        plain_file(tar, limit_bytes=LIMIT)


@pytest.mark.parametrize("size", [LIMIT + 1, 2**33, 2**62])
def test_a_size_over_the_limit(size):
    """The header's word is enough: the content is not looked at, and need not be there."""
    made = tarfile.TarInfo("outputs.json")
    made.size = size
    header = made.tobuf(tarfile.GNU_FORMAT)

    with pytest.raises(OutputUnreadable, match=str(size)):
        plain_file((header + bytes(TAR_BYTES))[: LIMIT + TAR_BYTES], limit_bytes=LIMIT)


@pytest.mark.parametrize("tar", [b"", bytes(1024), b"no tar at all" * 100, tar_of(b"x" * 900)[:800]])
def test_what_is_no_tar_or_breaks_off(tar):
    """It is unreadable, and nothing worse."""
    with pytest.raises(OutputUnreadable):
        plain_file(tar, limit_bytes=LIMIT)


def test_what_is_put_into_a_container():
    """Folders and files have the rights that a job needs, and secrets none for others."""
    with tarfile.open(fileobj=io.BytesIO(upshot_files(b"{}", {"token": "s3cret"}, 1234))) as tar:
        found = {one.name: (one.isdir(), oct(one.mode), one.uid) for one in tar}
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
def test_who_a_job_runs_as(user, number):
    """A number is itself; a name is looked up in the image; what is not there is not guessed."""
    passwd = b"broken line\nml:x:17:17::/:/bin/sh\nodd:x:no:1::/:\n"

    assert user_id(user, passwd) == number
    assert user_id("ml", None) is None
