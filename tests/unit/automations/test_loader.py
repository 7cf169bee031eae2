"""Folders of automations: what is loaded, what is refused, and that a broken file does not affect others."""

from __future__ import annotations

import os

import pytest

from tests.unit.automations.factories import CATALOG
from upshot.automations.loader import load_folder

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


def test_a_broken_file_disables_only_its_own_automations(folder):
    """A broken file is reported with all its errors. Its valid documents are disabled, too."""
    write(folder, good_yaml=GOOD.format("good"), bad_yaml=GOOD.format("half") + "---\nname: bad\nfoo: 1\n")

    loaded = load_folder(folder, CATALOG)

    assert names(loaded) == ["good"]
    assert [file.path for file in loaded.broken] == [f"{folder}/bad.yaml"]
    assert [error.line for error in loaded.broken[0].errors] == [5, 5, 6]


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
    """The first automation keeps its name. The file of the other is broken, and the message names both places."""
    write(folder, a_yaml=GOOD.format("same"), b_yaml=GOOD.format("other") + "---\n" + GOOD.format("same"))

    loaded = load_folder(folder, CATALOG)

    assert names(loaded) == ["same"]
    assert messages(loaded, folder) == [
        "b.yaml:5: a.yaml:1 already has the name 'same'; names must be unique in the folder"
    ]


def test_a_broken_file_does_not_reserve_names(folder):
    """The automations of a broken file are disabled, so another file can use their names."""
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
    """A link to a file outside the folder is an error. A link to a folder is not followed."""
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
    scan = os.scandir

    def scandir(path):
        if path.name in ("closed", "gone"):
            raise {"closed": PermissionError, "gone": FileNotFoundError}[path.name](path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    loaded = load_folder(folder, CATALOG)

    assert names(loaded) == ["good"]
    assert messages(loaded, folder) == ["closed: this is a folder, which cannot be read"]


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
    write(folder, a_yaml=HOOK.format("a", path))

    (error,) = load_folder(folder, CATALOG).errors

    assert error.line == 5
    assert message in str(error)


def test_a_body_file_is_checked_as_a_template(folder):
    """Errors in a body file are reported with its own path and line."""
    write(folder, team__a_yaml=HOOK.format("a", "../x.j2"), x_j2="{\n{{ vrsion.name }}\n{{ alias | uper }}")
    write(folder, team__b_yaml=HOOK.format("b", "y.j2"), team__y_j2="\n\n{{ vrsion.name }}")

    assert messages(load_folder(folder, CATALOG), folder) == [
        "x.j2:3: unknown filter 'uper'; did you mean 'upper'?",
        "team/y.j2:3: 'vrsion' is unknown; did you mean 'version'?",
    ]
