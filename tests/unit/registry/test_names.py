"""A name means the same in both Unicode forms, wherever it enters. Names of earlier releases stay within reach."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.registry.conftest import ADMIN, MEMBER
from upshot.errors import Forbidden, InvalidInput, NotFound

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def test_both_forms_are_one_name(registry):
    """Registry, collection, project, artifact, alias, tag and event are created and found in either form."""
    d, c = DECOMPOSED, COMPOSED
    registry.log_artifact(f"p{d}", d, d, digest="x", aliases=[d], origin=MEMBER)
    linked = registry.link(d, d, f"p{d}/{d}:{d}", aliases=[d], origin=MEMBER)
    registry.add_tag(d, d, d, origin=MEMBER)
    registry.add_tag(c, c, c, d, origin=MEMBER)

    assert linked.value.reference == f"{c}/{c}:v0"
    assert {event.subject for event in linked.events} <= {f"{c}/{c}", f"{c}/{c}:v0"}
    for name in (c, d):
        assert registry.version(name, name, name).artifact_version.tags == (c,)
        assert registry.collection(name, name).tags == (c,)
        assert registry.artifact_version(f"p{name}/{name}:{name}").name == "v0"
        assert [found.name for found in registry.collections(name, cursor=None, limit=9).items] == [c]
        assert [found.name for found in registry.artifacts(f"p{name}", cursor=None, limit=9).items] == [c]
        assert registry.history(name, name, cursor=None, limit=9).items
    assert [settings.name for settings in registry.registries()] == [c]
    assert registry.link(c, c, f"p{c}/{c}", origin=MEMBER).value.name == "v0"
    assert registry.log_artifact(f"p{c}", c, c, digest="x", origin=MEMBER).value.name == "v0"
    assert registry.emit([(d, {})], origin=MEMBER)[0].name == c

    assert registry.rename_artifact(f"p{d}", d, f"{d}2", origin=ADMIN).value.name == f"{c}2"
    assert registry.rename_project(f"p{d}", f"q{d}", origin=ADMIN).value == f"q{c}"
    assert registry.update_collection(d, d, new_name=f"{d}2", origin=ADMIN).value.name == f"{c}2"
    registry.update_collection(d, f"{d}2", new_name=d, origin=ADMIN)
    registry.remove_alias(d, d, d, origin=MEMBER)
    registry.remove_tag(d, d, d, origin=MEMBER)
    registry.unlink(d, d, "v0", origin=MEMBER)
    registry.delete_collection(d, d, origin=MEMBER)
    with pytest.raises(NotFound):
        registry.collection(c, c)


def test_a_protected_alias_is_protected_in_every_form(registry):
    """The other Unicode form does not pass, and a name with brackets is protected by itself."""
    registry.link("model", "churn", "fraud/net:v0", origin=MEMBER)
    registry.protect_aliases("model", [f"{DECOMPOSED}*", "prod[eu]"], origin=ADMIN)

    for alias in (COMPOSED, DECOMPOSED, f"{COMPOSED}-1", "prod[eu]", "prode"):
        with pytest.raises(Forbidden):
            registry.add_alias("model", "churn", alias, "v0", origin=MEMBER)


@pytest.mark.parametrize("name", ["prod\u200b", "\u202eprod", "pr\u00adod", "prod\x85x"])
def test_a_new_name_has_no_invisible_characters(registry, name):
    """They are refused wherever a name enters."""
    registry.link("model", "churn", "fraud/net:v0", origin=MEMBER)
    for create in (
        lambda: registry.link(name, "x", "fraud/net:v0", origin=MEMBER),
        lambda: registry.link("model", name, "fraud/net:v0", origin=MEMBER),
        lambda: registry.create_collection("model", name, "model", origin=MEMBER),
        lambda: registry.create_collection("model", "x", name, origin=MEMBER),
        lambda: registry.link("model", "churn", "fraud/net:v0", aliases=[name], origin=MEMBER),
        lambda: registry.add_alias("model", "churn", name, "v0", origin=MEMBER),
        lambda: registry.add_tag("model", "churn", name, origin=MEMBER),
        lambda: registry.add_tag("model", "churn", name, "v0", origin=MEMBER),
        lambda: registry.log_artifact(name, "net", "model", origin=MEMBER),
        lambda: registry.log_artifact("fraud", name, "model", origin=MEMBER),
        lambda: registry.log_artifact("fraud", "other", name, origin=MEMBER),
        lambda: registry.add_artifact_alias("fraud", "net", name, "v0", origin=MEMBER),
        lambda: registry.add_artifact_tag("fraud", "net", name, "v0", origin=MEMBER),
        lambda: registry.protect_aliases("model", [name], origin=ADMIN),
        lambda: registry.protect_aliases(name, [], origin=ADMIN),
        lambda: registry.emit([(name, {})], origin=MEMBER),
        lambda: registry.rename_artifact("fraud", "net", name, origin=ADMIN),
        lambda: registry.rename_project("fraud", name, origin=ADMIN),
        lambda: registry.update_collection("model", "churn", new_name=name, origin=ADMIN),
    ):
        with pytest.raises(InvalidInput):
            create()


def test_names_of_earlier_releases_can_be_read_and_removed(registry, monkeypatch):
    """A collection in the other form, and aliases and tags with invisible characters, stay within reach."""
    hidden = "prod\u200b"
    with monkeypatch.context() as patch:  # as an earlier release did
        for module in ("versions", "tags", "inputs"):
            patch.setattr(f"upshot.registry.{module}.check_name", lambda name, what: name, raising=False)
            patch.setattr(f"upshot.registry.{module}.check_alias", lambda name: name, raising=False)
        registry.link("model", DECOMPOSED, "fraud/net:v0", aliases=[hidden], origin=MEMBER)
        registry.add_tag("model", DECOMPOSED, hidden, origin=MEMBER)

    assert registry.collection("model", DECOMPOSED).name == DECOMPOSED
    assert registry.link("model", DECOMPOSED, "fraud/net:v1", origin=MEMBER).value.collection == DECOMPOSED
    assert registry.version("model", DECOMPOSED, hidden).name == "v0"
    registry.remove_tag("model", DECOMPOSED, hidden, origin=MEMBER)
    registry.remove_alias("model", DECOMPOSED, hidden, origin=MEMBER)
    assert "latest" in registry.collection("model", DECOMPOSED).aliases
    assert replace(registry.collection("model", DECOMPOSED), aliases={}).tags == ()
