"""Validation errors are described in plain words, with the path of each."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from upshot.validation import describe_value, invalid, validation_problems


class Color(StrEnum):
    RED = "red"
    BLUE = "blue"


def _check_even(value):
    if value % 2:
        raise invalid("must be even; write 2 or 4")
    return value


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    memory: int = 0


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=lambda name: name.replace("_", "-"))

    name: str = "x"
    is_on: bool = False
    count: Annotated[int, Field(ge=1)] = 1
    size: float = 1
    even: Annotated[int, AfterValidator(_check_even)] = 2
    color: Color | None = None
    on: Literal["version", "collection"] = "version"
    limits: Inner = Inner()
    items: list[Inner] = Field(default_factory=list)
    texts: str | list[str] = ""


class WithRequired(BaseModel):
    url: str


def problems(data, model=Outer, **options):
    """Return the descriptions of what is wrong with the data, by dotted path."""
    with pytest.raises(ValidationError) as raised:
        model.model_validate(data)
    found = validation_problems(raised.value.errors(), model, data=data, **options)
    return {problem.dotted_path: problem.message for problem in found}


@pytest.mark.parametrize(
    ("data", "path", "message"),
    [
        ({"name": 1}, "name", "must be a string, not the number 1; put it in quotes"),
        ({"name": None}, "name", "must be a string, not null"),
        ({"name": ["a"]}, "name", "must be a string, not a list"),
        ({"is-on": "no"}, "is-on", "must be true or false, not the string 'no'"),
        ({"size": "big"}, "size", "must be a number, not the string 'big'"),
        ({"count": 0}, "count", "must be greater than or equal to 1"),
        ({"even": 3}, "even", "must be even; write 2 or 4"),
        (
            {"on": "versoin"},
            "on",
            "must be 'version' or 'collection', not the string 'versoin'; did you mean 'version'?",
        ),
        ({"limits": 3}, "limits", "must be a mapping, not the number 3"),
        ({"limits": {"memory": "a" * 100}}, "limits.memory", f"must be a whole number, not the string '{'a' * 40}'"),
        ({"items": [{}, {"memory": True}]}, "items.1.memory", "must be a whole number, not true"),
        ({"texts": 1}, "texts", "must be a string, not the number 1; put it in quotes"),
    ],
)
def test_a_wrong_value_is_described(data, path, message):
    """The message says what the value must be, and what it is. The path has no names of union members."""
    assert problems(data) == {path: message}


@pytest.mark.parametrize(
    ("data", "path", "message"),
    [
        ({"nmae": 1}, "nmae", "unknown key; did you mean 'name'?"),
        ({"limits": {"memry": 1}}, "limits.memry", "unknown key; did you mean 'memory'?"),
        ({"items": [{"memry": 1}]}, "items.0.memry", "unknown key; did you mean 'memory'?"),
        ({"memory": 1}, "memory", "unknown key; write it under `limits`"),
        ({"limits": {"count": 1}}, "limits.count", "unknown key; write it beside `limits`, not under it"),
        ({"limits": {"zzz": 1}}, "limits.zzz", "unknown key; choose from 'memory'"),
    ],
)
def test_an_unknown_key_is_described_with_a_remedy(data, path, message):
    """The message names the nearest valid key, or where the key belongs."""
    assert problems(data) == {path: message}


def test_a_caller_can_give_a_better_remedy():
    """The remedy of the caller replaces the message for an unknown or missing key."""
    remedies = {"later": "not supported yet", "url": "write the address of the receiver"}

    assert problems({"later": 1}, remedy=remedies.get) == {"later": "not supported yet"}
    assert problems({}, WithRequired, remedy=remedies.get) == {"url": "write the address of the receiver"}
    assert problems({}, WithRequired) == {"url": "this field is required"}


def test_values_can_be_hidden():
    """A message never contains a value if values can be secrets."""
    assert problems({"limits": {"memory": "hunter2"}}, show_values=False) == {
        "limits.memory": "must be a whole number, not a string"
    }


def test_json_has_objects():
    """A caller can choose what to call a mapping."""
    assert problems({"limits": 3}, mapping="a JSON object") == {"limits": "must be a JSON object, not the number 3"}


@pytest.mark.parametrize(
    ("value", "shown", "kind"),
    [
        (None, "null", "null"),
        (True, "true", "true or false"),
        (1.5, "the number 1.5", "a number"),
        ("x", "the string 'x'", "a string"),
        ({"a": 1}, "a mapping", "a mapping"),
        ((1,), "a list", "a list"),
        (object(), "a value of type object", "a value of type object"),
    ],
)
def test_values_are_described_in_the_words_of_yaml(value, shown, kind):
    """A description contains the value only on request."""
    assert describe_value(value) == shown
    assert describe_value(value, show=False) == kind
