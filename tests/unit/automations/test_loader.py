"""Folders of automations: what is loaded, what is refused, and that a broken file does not affect others."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from tests.unit.automations.factories import CATALOG
from upshot.automations.loader import load_file, load_folder

GOOD = "name: {}\non: custom\nsteps: [{{uses: emit, with: {{name: x}}}}]\n"
HOOK = "name: {}\non: custom\nsteps:\n  - uses: webhook\n    with: {{url: 'https://x.example', body-file: {}}}\n"


@pytest.fixture
def folder(tmp_path):
    """Return an empty folder of automations in an otherwise empty directory."""
    (tmp_path / "automations").mkdir()
    return tmp_path / "automations"


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(loaded):
    return [automation.name for automation in loaded.automations]


def messages(loaded, folder):
    return [str(error).replace(f"{folder}/", "") for error in loaded.errors]


def test_all_documents_of_all_files_are_loaded(folder):
    """All `*.yaml` and `*.yml` files are loaded, also in nested folders, in the order of paths."""
    write(folder, b_yaml=GOOD.format("b1") + "---\n" + GOOD.format("b2") + "---\n", a_yml=GOOD.format("a"))
    write(folder, team__c_yaml=GOOD.format("c"), README_md="# no", event_json="{}")

    loaded = load_folder(folder, CATALOG)

    assert names(loaded) == ["a", "b1", "b2", "c"]
    assert [automation.path for automation in loaded.automations] == ["a.yml", "b.yaml", "b.yaml", "team/c.yaml"]
    assert loaded.errors == ()


def test_a_broken_document_disables_only_itself(folder):
    """A broken document is reported with all its errors. The sound documents of its file are loaded."""
    write(folder, good_yaml=GOOD.format("good"), bad_yaml=GOOD.format("half") + "---\nname: bad\nfoo: 1\n")

    loaded = load_folder(folder, CATALOG)

    assert names(loaded) == ["half", "good"]
    assert [file.path for file in loaded.broken] == [f"{folder}/bad.yaml"]
    assert [error.line for error in loaded.broken[0].errors] == [5, 5, 6]


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param("name: [bad\n", id="an open bracket"),
        pytest.param("name: 'bad\n", id="an open quote"),
        pytest.param("\tname: bad\n", id="a tab"),
        pytest.param("name: bad\non: &x custom\n", id="an anchor"),
        pytest.param("name: bad\nname: worse\n", id="a key twice"),
        pytest.param("name: bad\ndescription: \x07\n", id="a control character"),
        pytest.param("name: bad\n" + "x: [" * 30 + "\n", id="too deep"),
        pytest.param("name: bad\nx: " + "y" * 300_000 + "\n", id="too large"),
        pytest.param("- a\n- b\n", id="a list"),
        pytest.param(GOOD.format("bad").replace("emit", "emti"), id="an unknown action"),
    ],
)
def test_a_document_can_be_loaded_whatever_precedes_it(folder, bad):
    """A mistake in the syntax of a document does not hide the documents around it, whose lines stay correct."""
    write(folder, a_yaml=f"# comment\n{GOOD.format('first')}---\n{bad}---\n{GOOD.format('last')}")

    loaded = load_folder(folder, CATALOG)

    assert names(loaded) == ["first", "last"]
    assert [automation.line for automation in loaded.automations] == [2, 7 + bad.count("\n")]
    assert all(5 < (error.line or 0) < 7 + bad.count("\n") for error in loaded.errors), [*map(str, loaded.errors)]


def test_errors_have_the_order_of_files_and_lines(folder):
    """Errors are sorted by file and line, so that an author can go through them."""
    write(folder, b_yaml="name: b\n", a_yaml=GOOD.format("a a") + "zzz: 1\n")

    assert [line.partition(": ")[0] for line in messages(load_folder(folder, CATALOG), folder)] == [
        "a.yaml:1",
        "a.yaml:4",
        "b.yaml:1",
        "b.yaml:1",
    ]


def test_names_are_unique_in_the_folder(folder):
    """The first automation keeps its name. The other is not loaded, and the message names both places."""
    write(folder, a_yaml=GOOD.format("same"), b_yaml=GOOD.format("other") + "---\n" + GOOD.format("same"))

    loaded = load_folder(folder, CATALOG)

    assert names(loaded) == ["same", "other"]
    assert messages(loaded, folder) == [
        "b.yaml:5: a.yaml:1 already has the name 'same'; names must be unique in the folder"
    ]


def test_a_broken_document_does_not_reserve_its_name(folder):
    """A broken document that was never sound has no claim to its name, so another document can use it."""
    write(folder, a_yaml=GOOD.format("same") + "foo: 1\n", b_yaml=GOOD.format("same"))

    assert names(load_folder(folder, CATALOG)) == ["same"]


def test_hidden_files_and_folders_are_ignored(folder):
    """Files of editors, `.git` and the folders of a mounted ConfigMap are not loaded."""
    write(folder, good_yaml=GOOD.format("good"))
    (folder / ".hidden.yaml").write_text("bad")
    (folder / "..2026_08_03").mkdir()
    (folder / "..2026_08_03" / "mounted.yaml").write_text(GOOD.format("mounted"))

    assert names(load_folder(folder, CATALOG)) == ["good"]


def test_a_mounted_config_map_is_loaded(folder):
    """Kubernetes mounts each file as a link into a hidden folder beside it. Such links stay inside the folder."""
    (folder / "..2026_08_03").mkdir()
    (folder / "..2026_08_03" / "mounted.yaml").write_text(GOOD.format("mounted"))
    (folder / "..data").symlink_to("..2026_08_03")
    (folder / "mounted.yaml").symlink_to("..data/mounted.yaml")

    assert names(load_folder(folder, CATALOG)) == ["mounted"]


def test_links_that_lead_outside_are_refused(folder):
    """A link to a file or a folder outside the folder is an error."""
    outside = folder.parent / "outside"
    write(outside, secret_yaml=GOOD.format("secret"))
    (folder / "link.yaml").symlink_to(outside / "secret.yaml")
    (folder / "linked").symlink_to(outside)
    (folder / "dangling.yaml").symlink_to(folder / "nowhere")
    (folder / "round.yaml").symlink_to(folder / "round.yaml")

    loaded = load_folder(folder, CATALOG)

    assert names(loaded) == []
    assert [line.partition(": ")[0] for line in messages(loaded, folder)] == [
        "dangling.yaml",
        "link.yaml",
        "linked",
        "round.yaml",
    ]
    assert "link.yaml: the file is outside the folder of automations; move it inside" in messages(loaded, folder)


def test_a_special_file_is_refused(folder):
    """Reading a pipe could block without end, so it is an error."""
    os.mkfifo(folder / "pipe.yaml")
    (folder / "folder.yaml").mkdir()

    assert messages(load_folder(folder, CATALOG), folder) == ["pipe.yaml: this is a special file, which cannot be read"]


def test_an_unreadable_nested_folder_is_reported(folder, monkeypatch):
    """A nested folder that cannot be read is an error of its own. One that disappears meanwhile is ignored."""
    write(folder, good_yaml=GOOD.format("good"), closed__a_yaml=GOOD.format("a"), gone__b_yaml=GOOD.format("b"))
    open_path = os.open

    def deny(path, *args, **options):
        if path in ("closed", "gone"):
            raise {"closed": PermissionError, "gone": FileNotFoundError}[path](errno.EACCES, "Permission denied", path)
        return open_path(path, *args, **options)

    monkeypatch.setattr(os, "open", deny)
    loaded = load_folder(folder, CATALOG)

    assert names(loaded) == ["good"]
    assert messages(loaded, folder) == ["closed: this folder cannot be read: Permission denied"]


def test_a_name_that_is_not_utf8_is_skipped(folder):
    """A file or folder whose name is not UTF-8 is reported with its bytes, and everything else is loaded."""
    write(folder, good_yaml=GOOD.format("good"))
    raw = os.fsencode(folder)
    for name in (b"caf\xe9.yaml", b"caf\xe9.txt", b".caf\xe9.yaml"):
        with open(raw + b"/" + name, "w") as file:  # noqa: PTH123 - a path of bytes
            file.write(GOOD.format("odd"))
    os.mkdir(raw + b"/\xff")  # noqa: PTH102 - a path of bytes

    loaded = load_folder(folder, CATALOG)

    assert names(loaded) == ["good"]
    assert messages(loaded, folder) == [
        "\\xff: this name is not UTF-8, so it is skipped; rename it",
        "caf\\xe9.yaml: this name is not UTF-8, so it is skipped; rename it",
    ]


def test_one_file_whose_name_is_not_utf8_is_an_error(folder):
    """`upshot validate FILE` says the same as `upshot validate` of its folder."""
    path = os.fsdecode(b"caf\xe9.yaml")
    (folder / path).write_text(GOOD.format("odd"))

    assert [*map(str, load_file(folder, path, CATALOG).errors)] == messages_of(folder)


def messages_of(folder):
    return [str(error) for error in load_folder(folder, CATALOG).errors]


def test_the_folder_can_have_any_name(tmp_path):
    """A folder whose own name is not UTF-8 is loaded. Messages show its name with escapes."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    write(folder, good_yaml=GOOD.format("good"), bad_yaml="a: 1\n")

    loaded = load_folder(folder, CATALOG)

    assert names(loaded) == ["good"]
    assert {error.path for error in loaded.errors} == {f"{tmp_path}/caf\\xe9/bad.yaml"}


def test_control_characters_in_a_name_are_escaped(folder):
    """A name cannot forge a line of a message, or write to a terminal."""
    (folder / "a\nb\x1b[2J\u202e.yaml").write_text(GOOD.format("odd"))

    (found,) = load_folder(folder, CATALOG).automations

    assert found.path == "a\\nb\\x1b[2J\\u202e.yaml"


def test_folders_are_read_to_a_depth_of_32(folder):
    """Files in 32 nested folders are loaded. Deeper ones are reported, however deep they are."""
    path = folder
    for _ in range(32):
        path = path / "d"
    path.mkdir(parents=True)
    (path / "a.yaml").write_text(GOOD.format("deep"))
    fd = os.open(path, os.O_RDONLY)
    for _ in range(60):
        os.mkdir("d", dir_fd=fd)
        fd, parent = os.open("d", os.O_RDONLY, dir_fd=fd), fd
        os.close(parent)
    os.close(fd)

    loaded = load_folder(folder, CATALOG)

    assert names(loaded) == ["deep"]
    assert messages(loaded, folder) == ["d/" * 32 + "d: folders are read to a depth of 32; move this folder further up"]
    subprocess.run(["rm", "-rf", folder / "d"], check=True)  # pytest cannot remove it


@pytest.mark.parametrize("name", ["a.YAML", "a.Yml", "a.yAmL"])
def test_suffixes_are_accepted_in_any_case(folder, name):
    """Windows and some editors write suffixes in capitals."""
    (folder / name).write_text(GOOD.format("a"))

    assert [automation.path for automation in load_folder(folder, CATALOG).automations] == [name]


def test_links_to_folders_are_followed(folder):
    """A ConfigMap with nested paths mounts folders as links into a hidden folder. Links in links are followed, too."""
    write(folder, plain__a_yaml=GOOD.format("plain"))
    nested = folder / "..2026_08_03" / "team" / "sub"
    nested.mkdir(parents=True)
    (nested.parent / "b.yaml").write_text(GOOD.format("b"))
    (nested / "c.yml").write_text(GOOD.format("c"))
    (nested / "again").symlink_to("../../team")
    (folder / "..data").symlink_to("..2026_08_03")
    (folder / "team").symlink_to("..data/team")
    (folder / "absolute").symlink_to(folder / "plain")
    (folder / "loop").symlink_to(".")

    loaded = load_folder(folder, CATALOG)

    assert loaded.errors == ()
    assert [automation.path for automation in loaded.automations] == ["plain/a.yaml", "team/b.yaml", "team/sub/c.yml"]


def test_a_file_that_has_two_paths_is_loaded_once(folder):
    """A link beside the file that it leads to is not a second automation of the same name."""
    write(folder, b_yaml=GOOD.format("b"))
    (folder / "a.yaml").symlink_to("b.yaml")

    loaded = load_folder(folder, CATALOG)

    assert [automation.path for automation in loaded.automations] == ["b.yaml"]
    assert loaded.errors == ()


def test_a_file_in_another_encoding_is_refused(folder):
    """The message contains the line of the first byte that is not UTF-8."""
    (folder / "a.yaml").write_bytes(b"name: a\ndescription: caf\xe9\n")

    assert messages(load_folder(folder, CATALOG), folder) == ["a.yaml:2: the file is not UTF-8; save it as UTF-8"]


def test_a_file_of_comments_is_valid(folder):
    """A file whose automations are commented out contains nothing, and that is not an error."""
    (folder / "later.yaml").write_text("# name: later\n# on: version-linked\n")
    loaded = load_folder(folder, CATALOG)
    assert loaded.errors == ()
    assert loaded.automations == ()


def test_an_empty_folder_is_valid(folder):
    """An empty folder has no automations and no errors."""
    loaded = load_folder(folder, CATALOG)

    assert (loaded.automations, loaded.errors) == ((), ())


def test_a_missing_folder_is_reported(folder):
    """A missing folder is an error in the result, and does not raise."""
    loaded = load_folder(folder / "nope", CATALOG)

    assert loaded.automations == ()
    assert str(loaded.errors[0]) == (
        f"{folder}/nope: this folder does not exist; create it, run `upshot init`, or set UPSHOT_AUTOMATIONS to "
        "another one"
    )


def test_the_path_of_a_body_file_is_relative_to_its_automation(folder):
    """The path is relative to the automation's file. The text is stored with the automation."""
    write(folder, team__a_yaml=HOOK.format("a", "payloads/x.json.j2"))
    write(folder, team__payloads__x_json_j2='{"a": {{ version.name | tojson }}}')

    (found,) = load_folder(folder, CATALOG).automations

    assert found.body_files == {"payloads/x.json.j2": '{"a": {{ version.name | tojson }}}'}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        pytest.param("nope.j2", "with.body-file: there is no file", id="missing"),
        pytest.param("../outside.txt", "is outside the folder of automations", id="above"),
        pytest.param("/etc/passwd", "is outside the folder of automations", id="absolute"),
        pytest.param("link.j2", "is outside the folder of automations", id="through a link"),
        pytest.param("linked/outside.txt", "is outside the folder of automations", id="through a linked folder"),
        pytest.param("sub/../../outside.txt", "is outside the folder of automations", id="up and away"),
        pytest.param(".git/config", "this file is hidden", id="in a hidden folder"),
        pytest.param("sub/.env", "this file is hidden", id="hidden"),
        pytest.param("sub/..data", "this file is hidden", id="hidden as in a ConfigMap"),
        pytest.param("open.j2", "the link leads to a hidden file", id="a link to a hidden file"),
        pytest.param("round.j2", "too many links", id="a link to itself"),
        pytest.param("large.j2", "the file is larger than 64 KB", id="large"),
        pytest.param("latin.j2", "the file is not UTF-8", id="another encoding"),
        pytest.param("sub", "this is a folder, which cannot be read", id="a folder"),
        pytest.param('"x\\0y"', "the file cannot be read", id="a null byte"),
        pytest.param('"{{ version.name }}.j2"', "write a plain path", id="a template"),
    ],
)
def test_an_unusable_body_file_is_reported(folder, path, message):
    """The error is reported at the line of `body-file`."""
    (folder.parent / "outside.txt").write_text("secret")
    (folder / "link.j2").symlink_to(folder.parent / "outside.txt")
    (folder / "large.j2").write_text("x" * 65_537)
    (folder / "latin.j2").write_bytes(b"caf\xe9")
    (folder / "sub").mkdir()
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("secret")
    (folder / "open.j2").symlink_to(".git/config")
    (folder / "linked").symlink_to(folder.parent)
    (folder / "round.j2").symlink_to("round.j2")
    write(folder, a_yaml=HOOK.format("a", path))

    errors = [error for error in load_folder(folder, CATALOG).errors if error.path == f"{folder}/a.yaml"]

    assert [error.line for error in errors] == [5]
    assert message in str(errors[0])


def test_a_body_file_keeps_every_byte(folder):
    """Line ends, a byte order mark and trailing blanks are part of the body."""
    raw = b"\xef\xbb\xbfone\r\ntwo\rthree\n \t\r\n\r\n"
    write(folder, a_yaml=HOOK.format("a", "b.txt"))
    (folder / "b.txt").write_bytes(raw)

    (found,) = load_folder(folder, CATALOG).automations

    assert found.body_files["b.txt"].encode() == raw


def test_a_body_file_of_a_mounted_config_map_is_read(folder):
    """The link of a ConfigMap leads through folders whose names begin with two dots."""
    (folder / "..2026").mkdir()
    (folder / "..2026" / "b.j2").write_text("{}")
    (folder / "..data").symlink_to("..2026")
    (folder / "b.j2").symlink_to("..data/b.j2")
    write(folder, a_yaml=HOOK.format("a", "b.j2"))

    assert names(load_folder(folder, CATALOG)) == ["a"]


def test_a_body_file_cannot_be_swapped_for_a_link_out_of_the_folder(folder, monkeypatch):
    """Whenever a folder on the way becomes a link, the file outside is not read."""
    write(folder, a_yaml=HOOK.format("a", "sub/b.j2"), sub__b_j2="inside")
    (folder.parent / "outside").mkdir()
    (folder.parent / "outside" / "b.j2").write_text("secret")
    swapped: list[Path] = []
    open_path = os.open

    def swap_first(path, *args, **options):
        if path in ("sub", "b.j2") and not swapped:
            swapped.append((folder / "sub").rename(folder / "old"))
            (folder / "sub").symlink_to(folder.parent / "outside")
        return open_path(path, *args, **options)

    loaded = load_file(folder, "a.yaml", CATALOG)
    assert loaded.automations[0].body_files == {"sub/b.j2": "inside"}
    monkeypatch.setattr(os, "open", swap_first)
    loaded = load_file(folder, "a.yaml", CATALOG)

    assert swapped
    assert (loaded.automations, len(loaded.errors)) == ((), 1)


def test_a_body_file_is_checked_as_a_template(folder):
    """Errors in a body file are reported with its own path and line."""
    write(folder, team__a_yaml=HOOK.format("a", "../x.j2"), x_j2="{\n{{ vrsion.name }}\n{{ alias | uper }}")
    write(folder, team__b_yaml=HOOK.format("b", "y.j2"), team__y_j2="\n\n{{ vrsion.name }}")

    assert messages(load_folder(folder, CATALOG), folder) == [
        "x.j2:3: unknown filter 'uper'; did you mean 'upper'?",
        "team/y.j2:3: 'vrsion' is unknown; did you mean 'version'?",
    ]
