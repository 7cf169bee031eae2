import pytest

from upshot.domain.reference import Reference
from upshot.sdk.references import LinkTarget, read_reference, read_target


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nature", Reference("own", "nature", "latest")),
        ("nature:v3", Reference("own", "nature", "v3")),
        ("other/nature:best", Reference("other", "nature", "best")),
        ("acme/other/nature", Reference("other", "nature", "latest")),
        ("model-registry/Name:staging", Reference("model", "Name", "staging", is_registry=True)),
        ("acme/model-registry/My Name", Reference("model", "My Name", "latest", is_registry=True)),
        ("org/wandb-registry-data/Set:v1", Reference("data", "Set", "v1", is_registry=True)),
    ],
)
def test_references(text, expected):
    """Each form of a reference names what W&B's does. Without a version, `latest` is meant."""
    assert read_reference(text, "own") == expected


@pytest.mark.parametrize("text", ["a/b/c/d", "a:", "/a", "a/", "", None])
def test_wrong_references(text):
    """A wrong reference is a ValueError that gives the right form."""
    with pytest.raises(ValueError, match="write"):
        read_reference(text, "own")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model-registry/Name", LinkTarget("model", "Name")),
        ("acme/model-registry/Name", LinkTarget("model", "Name")),
        ("wandb-registry-data/Set", LinkTarget("data", "Set")),
        ("org/wandb-registry-data/Set", LinkTarget("data", "Set")),
        ("dataset/Set", LinkTarget("dataset", "Set")),
    ],
)
def test_targets(text, expected):
    """Each form of a link target names a collection."""
    assert read_target(text) == expected


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Name", "model-registry/Name"),
        ("Name:v1", "'model-registry/Name'"),
        ("model/Name:v1", "'model/Name'"),
        ("", "REGISTRY/COLLECTION"),
    ],
)
def test_wrong_targets(text, word):
    """A target with a version or with one part is refused, and the message gives the right form."""
    with pytest.raises(ValueError, match=word):
        read_target(text)


def test_another_entity_is_refused_by_name(monkeypatch):
    """With UPSHOT_ENTITY, a reference to another entity is refused; without it, any entity is accepted."""
    monkeypatch.setenv("UPSHOT_ENTITY", "acme")

    assert read_reference("acme/other/nature", None) == Reference("other", "nature", "latest")
    with pytest.raises(ValueError, match="'acme'"):
        read_reference("rival/other/nature", None)
