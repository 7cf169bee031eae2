"""How YAML is parsed: by the core schema of YAML 1.2, without syntax that confuses or exhausts memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshot.automations.parser.document import (
    MAX_DEPTH,
    MAX_DOCUMENT_CHARS,
    MAX_FILE_BYTES,
    MAX_NODES,
    decode,
    parse_documents,
)


def parse(text):
    errors = []
    documents = parse_documents(text, lambda line, reason: errors.append((line, reason)))
    return [document.value for document in documents], errors


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *((word, word) for word in ("on", "off", "yes", "no", "On", "NO", "y", "n", "tRue")),
        *((word, True) for word in ("true", "True", "TRUE")),
        *((word, None) for word in ("null", "~", "", "Null")),
        *((word, word) for word in ("12:30", "1:2:3", "2026-08-03", "1_000", "0b11", "1.2.3", "v1")),
        *((word, word) for word in ("+", ".", "1e", "=")),
        *((word, word) for word in ("1,000", "0o8", "١٢", "nan", "Infinity", "5e10f")),
        ("0", 0),
        ("-7", -7),
        ("0.5", 0.5),
        ("-0.0", -0.0),
        ("1.0", 1.0),
        ("'1.10'", "1.10"),
        ("'01234'", "01234"),
        ('"true"', "true"),
        ("''", ""),
        ("'~'", "~"),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_a_scalar_is_what_yaml_1_2_says(written, value):
    """`on`, `yes` and `no` are strings. There are no dates and no sexagesimal numbers. Quotes make a string."""
    documents, errors = parse(f"a: {written}\n")

    assert (documents, errors) == ([{"a": value}], [])
    assert type(documents[0]["a"]) is type(value)


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("010", "10"),
        ("01234", "1234"),
        ("-0", "0"),
        ("0o17", "15"),
        ("0x1F", "31"),
        ("+7", "7"),
        ("1.10", "1.1"),
        ("0.90", "0.9"),
        (".5", "0.5"),
        ("5.", "5.0"),
        ("5e10", "50000000000.0"),
        ("1E3", "1000.0"),
        ("1e-4", "0.0001"),
        ("0.12345678901234567890", "0.12345678901234568"),
    ],
)
def test_a_number_that_would_be_sent_otherwise_than_it_is_written_is_reported(written, sent):
    """A postal code, a version or a commit that looks like a number is not rewritten. The message says what to do."""
    expected = f"{written} is read as the number {sent}; quote it if it is text, or write {sent}"

    assert parse(f"a: [1,\n {written}]")[1] == [(2, expected)]
    assert parse(f"a: {sent}")[1] == []
    assert parse(f"{written}: a")[1] == [(1, expected)]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        pytest.param("a: 1\nb: 2\na: 3", 3, "key 'a' appears twice; the first is on line 1", id="repeated key"),
        pytest.param("a: {b: 1, 'b': 2}", 1, "key 'b' appears twice", id="repeated key, quoted"),
        pytest.param("a: &x 1", 1, "anchor `&x`: anchors and aliases are not allowed", id="anchor"),
        pytest.param("a: 1\nb: *x", 2, "alias `*x`: anchors and aliases are not allowed", id="alias"),
        pytest.param("<<: {a: 1}", 1, "merge key `<<` is not allowed", id="merge key"),
        pytest.param("a: !!python/object:os.system x", 1, "tags are not allowed", id="python tag"),
        pytest.param("a: !!str 1", 1, "tags are not allowed", id="core tag"),
        pytest.param("a: !x {b: 1}", 1, "tag `!x`: tags are not allowed", id="own tag"),
        pytest.param("a:\n\tb: 1", 2, "indented with a tab; use spaces", id="tab"),
        pytest.param("a: b: c", 1, "put a value that contains `: ` in quotes", id="second colon"),
        pytest.param("a: [1, 2\nb: 1", 2, "a comma is missing", id="open bracket"),
        pytest.param("a: 'x", 1, "a quote is not closed", id="open quote"),
        pytest.param("a: @x", 1, "a value cannot begin with this character; put it in quotes", id="at sign"),
        pytest.param("a: `x`", 1, "put it in quotes", id="backtick"),
        pytest.param(
            'if: "x" in aliases', 1, "put the whole value in quotes: `if: '\"x\" in aliases'`", id="text and more"
        ),
        pytest.param("- if: '1_0' | int > 1", 1, "`if: \"'1_0' | int > 1\"`", id="text and a filter"),
        pytest.param("a: %x", 1, "put it in quotes", id="percent"),
        pytest.param("a: - b", 1, "a list must begin on the line below its key", id="list on the key's line"),
        pytest.param("a:\n  b: 1\n c: 2", 3, "the indentation is wrong", id="indentation"),
        pytest.param("a: {{ secrets.X }}", 1, 'must be in quotes: "{{ … }}"', id="braces without quotes"),
        pytest.param("a: {{ x }}/y", 1, "must be in quotes", id="braces without quotes, and more"),
        pytest.param("? [a]\n: b", 1, "a key must be a string", id="list as a key"),
        pytest.param("1: a", 1, "key 1: a key must be a string; put it in quotes", id="number as a key"),
        pytest.param("true: a", 1, "key true: a key must be a string; put it in quotes", id="boolean as a key"),
        pytest.param("~: a", 1, "key ~: a key must be a string; put it in quotes", id="null as a key"),
        pytest.param("a: .inf", 1, ".inf is not a number that JSON supports", id="infinity"),
        pytest.param("a: .NaN", 1, ".NaN is not a number that JSON supports", id="not a number"),
        pytest.param("a: 1e999", 1, "1e999 is not a number that JSON supports", id="too large a float"),
        pytest.param("a: 9223372036854775808", 1, "not a number that JSON supports; put it in quotes", id="65 bits"),
        pytest.param(f"a: {'9' * 5000}", 1, "999999999999… is not a number", id="five thousand digits"),
        pytest.param("a: 1\nb: \x07", 2, "control characters are not allowed", id="control character"),
        pytest.param('a: "\\ud800"', 1, "invalid Unicode", id="half a character, escaped"),
        pytest.param("a: \ud800", None, "half a character", id="half a character"),
        pytest.param("%YAML 1.2\na: 1", 2, "invalid YAML", id="directive without a document"),
        pytest.param("a: " + "[" * 50 + "]" * 50, 1, f"nested more than {MAX_DEPTH} levels deep", id="depth"),
        pytest.param("a: [" + "1," * MAX_NODES + "]", 1, f"more than {MAX_NODES} values", id="nodes"),
        pytest.param("a: '" + "x" * MAX_DOCUMENT_CHARS + "'", 1, "more than 256 KB", id="size"),
    ],
)
def test_unsupported_syntax_is_reported(text, line, says):
    """Each error names its line and a remedy."""
    errors = parse(text)[1]

    assert errors
    assert errors[0][0] == line
    assert says in errors[0][1]


def test_aliases_do_not_multiply():
    """Aliases of aliases (a "billion laughs" attack) are reported one by one, and no memory grows."""
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 50)]

    documents, errors = parse("\n".join(lines))

    assert len(errors) == 50 + 2 * 49
    assert documents[0]["a49"] == ["{{ unreadable }}"] * 2


def test_limits_apply_to_each_document():
    """Each document has its own count of values and characters."""
    documents, errors = parse("\n---\n".join(f"a: [{'x,' * 3000}]\nb: '{'y' * 100_000}'" for _ in range(5)))

    assert len(documents) == 5
    assert not errors


def test_documents_before_an_error_are_returned():
    """An error in the second document does not affect the first."""
    documents, errors = parse("a: 1\n---\nb: [\n")

    assert documents == [{"a": 1}]
    assert len(errors) == 1


def test_lines_are_known_of_keys_and_values():
    """Keys and values know their lines. The text of a block scalar begins on the line below its `|`."""
    (document,), _ = parse("a:\n  b: |\n    {{ x }}\n  c:\n    - 1\n    - >\n      y\n")

    block = document["a"]
    assert (document.key_lines, document.value_lines) == ({"a": 1}, {"a": 2})
    assert (block.key_lines, block.value_lines) == ({"b": 2, "c": 4}, {"b": 3, "c": 5})
    assert block["c"].lines == [5, 7]


def test_a_byte_order_mark_is_ignored():
    """Editors on Windows write a byte order mark. It is not an error."""
    errors: list[str] = []

    assert decode(b"\xef\xbb\xbfa: 1", lambda _, reason: errors.append(reason)) == "a: 1"
    assert errors == []


@pytest.mark.parametrize(
    ("raw", "line", "says"),
    [
        pytest.param(b"a: 1\nb: \xff", 2, "not UTF-8", id="latin-1"),
        pytest.param("a: 1".encode("utf-16"), 1, "not UTF-8", id="utf-16"),
        pytest.param(b"x" * (MAX_FILE_BYTES + 1), None, "larger than 4 MB", id="size"),
    ],
)
def test_a_file_that_is_not_text_is_reported(raw, line, says):
    """Bytes that are not UTF-8, and files that are too large, are reported with a remedy."""
    errors = []

    assert decode(raw, lambda at, reason: errors.append((at, reason))) is None
    assert errors[0][0] == line
    assert says in errors[0][1]


@given(st.text(alphabet="ab:-[]{}&*!|>'\"#%@`,? \n\t1.~<=", max_size=60))
def test_no_text_breaks_the_parser(text):
    """Any text results in documents, or in errors whose lines exist."""
    documents, errors = parse(text)

    assert documents or errors or not text.strip() or "#" in text or "%" in text or "\t" in text
    for line, reason in errors:
        assert reason
        assert line is None or 1 <= line <= text.count("\n") + 2
