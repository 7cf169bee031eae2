"""Numbers in settings, options and query parameters are read strictly."""

from __future__ import annotations

import click
import pytest

from upshot.cli.params import OBJECT, parse_assignments
from upshot.cli.settings import settings_with
from upshot.cli.whole_number import WholeNumber
from upshot.errors import ConfigError
from upshot.numerals import read_decimal, read_whole


@pytest.mark.parametrize("text", ["1_000", "1.0", "١٢", "²", "0x10", "", "1e3", "--1", "9" * 5000])
def test_other_texts_are_no_whole_number(text):
    """Only ASCII digits with a sign are a whole number."""
    assert read_whole(text) is None


@pytest.mark.parametrize("text", ["NaN", "inf", "-Infinity", "1_0.5", "1e999", "٣.5", ".", "", "1,5", "0x1p3"])
def test_other_texts_are_no_number(text):
    """Only ASCII digits with a sign, a fraction and an exponent are a number, and it is finite."""
    assert read_decimal(text) is None


def test_numbers_are_read():
    """Spaces around a number do not matter."""
    assert (read_whole(" 12\n"), read_whole("-3"), read_decimal("0.93"), read_decimal("5e-4")) == (12, -3, 0.93, 5e-4)


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("UPSHOT_PORT", "8_080", "UPSHOT_PORT must be a whole number, written with digits only"),
        ("UPSHOT_PORT", "٨٠", "UPSHOT_PORT must be a whole number"),
        ("UPSHOT_LEASE_SECONDS", "inf", "UPSHOT_LEASE_SECONDS must be a number, written with digits only"),
        ("UPSHOT_LEASE_SECONDS", "NaN", "UPSHOT_LEASE_SECONDS must be a number"),
        ("UPSHOT_SWEEP_SECONDS", "1_0", "UPSHOT_SWEEP_SECONDS must be a number"),
        ("UPSHOT_DESTINATION_IN_FLIGHT", "1_0", "UPSHOT_DESTINATION_IN_FLIGHT must be a whole number"),
    ],
)
def test_a_setting_that_is_not_a_number_is_rejected(monkeypatch, setting, value, says):
    """`8_080` is not read as 8080, and no setting is infinite."""
    monkeypatch.setenv(setting, value)
    with pytest.raises(ConfigError, match=says):
        settings_with()


def test_an_option_is_a_whole_number():
    """An option of a command takes ASCII digits only."""
    number = WholeNumber(1, 100)

    assert number.convert("20", None, None) == 20
    for text in ("2_0", "١٢", "0", "101", "1.0"):
        with pytest.raises(click.BadParameter):
            number.convert(text, None, None)


def test_a_word_is_text_unless_it_says_json(capsys):
    """`version=1.10` stays a text. `:=` reads JSON. A text that looks like JSON gets a note on standard error."""
    words = ["version=1.10", "ok=False", "commit=5e10", "url=http://x/?a=b", "n:=1.5", "gone:=null", "l:=[1]", 's:="1"']

    assert parse_assignments(words) == {
        "version": "1.10",
        "ok": "False",
        "commit": "5e10",
        "url": "http://x/?a=b",
        "n": 1.5,
        "gone": None,
        "l": [1],
        "s": "1",
    }
    assert capsys.readouterr().err == ""

    assert parse_assignments(["score=0.4", "ok=true"]) == {"score": "0.4", "ok": "true"}
    assert "note: score is the text '0.4'; write score:=0.4 to send it as JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["a"], "neither key=text nor key:=JSON"),
        (["=1"], "neither key=text nor key:=JSON"),
        ([":=1"], "neither key=text nor key:=JSON"),
        (["a:=NaN"], "NaN is not JSON; write a=NaN if it is text"),
        (["a:=1e999"], "too large"),
        (["a:=False"], "write a=False if it is text"),
        (['a:={"b": 1, "b": 2}'], "a key appears twice"),
        (["a:=" + "[" * 100_000], "nested too deeply"),
        (["a=1", "a:=2"], "the key 'a' is given twice"),
    ],
)
def test_an_invalid_word_is_refused(words, says):
    """The message says what to write."""
    with pytest.raises(click.BadParameter, match=says.replace("(", r"\(")):
        parse_assignments(words)


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": 1e999}', '{"a": 1, "a": 2}', '{"a": Infinity}'])
def test_an_object_of_a_command_is_strict_json(text):
    """`--data` and `--metadata` refuse what JSON does not have, and a key that appears twice."""
    with pytest.raises(click.BadParameter):
        OBJECT.convert(text, None, None)
