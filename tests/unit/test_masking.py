"""Stored data contains no secrets."""

import base64
import html
import json
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshot.masking import MASK, Mask, cut_text


def test_a_secret_is_masked_everywhere():
    """A secret is masked in strings, in nested values and in keys."""
    mask = Mask(["s3cr3t-token"])
    data = {"headers": {"Authorization": "Bearer s3cr3t-token"}, "list": [1, "x s3cr3t-token y"], "s3cr3t-token": None}
    assert mask.data(data) == {"headers": {"Authorization": "Bearer ***"}, "list": [1, "x *** y"], "***": None}


def test_a_secret_is_masked_in_json_and_urls():
    """A secret with quotes, line breaks or slashes is masked in its JSON and URL encodings."""
    mask = Mask(['a"b\nc/d é'])
    assert mask.text('{"x": "a\\"b\\nc/d \\u00e9"}') == '{"x": "***"}'
    assert mask.text('{"x": "a\\"b\\nc/d é"}') == '{"x": "***"}'
    assert mask.text("https://h/?t=a%22b%0Ac%2Fd%20%C3%A9") == "https://h/?t=***"


def test_the_longer_of_two_secrets_is_masked_completely():
    """A secret that contains another secret is masked as a whole."""
    assert Mask(["token", "token-extended"]).text("token-extended token") == "*** ***"


def test_a_very_short_value_is_not_masked():
    """Masking a value with fewer than four characters would remove half of every receipt."""
    assert Mask(["a", ""]).text("a banana") == "a banana"


def test_headers_with_credentials_are_masked():
    """`Basic` encodes the user and the password together, so the value of the secret would not be found in it."""
    request = {"method": "POST", "headers": {"Authorization": "Basic dXNlcjpwYXNz", "X-Other": "kept"}, "body": "{}"}
    assert Mask([]).request(request)["headers"] == {"Authorization": "***", "X-Other": "kept"}
    assert Mask([]).request(None) is None


def test_a_secret_is_masked_in_base64_and_in_another_case():
    """A secret is masked in base64, in upper case and in lower case."""
    mask = Mask(["Secret/Value"])
    assert mask.text("U2VjcmV0L1ZhbHVl SECRET/VALUE secret/value") == "*** *** ***"


def test_data_that_is_nested_too_deeply_is_left_out():
    """Masking ends for any data, and what it does not look at is not kept."""
    deep: Any = "s3cr3t-token"
    for _ in range(5000):
        deep = [deep]
    masked = Mask(["s3cr3t-token"]).data({"deep": deep})

    assert "left out" in orjson.dumps(masked).decode()


SECRETS = st.text(min_size=4)


@given(SECRETS, st.text(), st.text())
def test_a_secret_is_masked_in_any_text(secret, before, after):
    """Characters that JSON escapes, in the secret or around it, make no difference."""
    mask = Mask([secret])
    masked = mask.data({"a": [f"{before}{secret}{after}"]})

    assert masked == {"a": [mask.text(f"{before}{secret}{after}")]}
    assert masked["a"][0] != f"{before}{secret}{after}" or secret in MASK


def test_masking_large_data_without_a_secret_returns_it_unchanged():
    """A large response of a receiver is searched, and not walked through."""
    data = {"rows": [{"id": number} for number in range(10_000)]}

    assert Mask(["s3cr3t-token"]).data(data) is data


SECRET = """aB7/cD9+e'F1"gH3\\ü<&>=="""


def javascript(char: str) -> str:
    """Escape a character as code that is generated does."""
    if char.isascii() and char.isalnum():
        return char
    return f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{{{ord(char):x}}}"


def code_points(char: str) -> str:
    """Escape a character as PHP, Ruby, Rust and JavaScript write it."""
    return char if char.isascii() and char.isalnum() else f"\\u{{{ord(char):x}}}"


def octal(char: str) -> str:
    """Escape the bytes of a character as C, Git and the shell do."""
    return char if char.isascii() and char.isalnum() else "".join(f"\\{octet:03o}" for octet in char.encode())


DOTNET = {char: f"\\u{ord(char):04X}" for char in "+'<>&ü\"`"}


@pytest.mark.parametrize(
    "spell",
    [
        pytest.param(json.dumps, id="JSON"),
        pytest.param(lambda secret: json.dumps(secret, ensure_ascii=False), id="JSON in UTF-8"),
        pytest.param(lambda secret: json.dumps(json.dumps(secret)), id="JSON in JSON"),
        pytest.param(lambda secret: json.dumps(json.dumps(json.dumps({"a": secret}))), id="JSON three times"),
        pytest.param(lambda secret: json.dumps(secret).replace("/", "\\/"), id="PHP"),
        pytest.param(lambda secret: json.dumps(json.dumps(secret).replace("/", "\\/")), id="PHP in JSON"),
        pytest.param(
            lambda secret: "".join(DOTNET.get(char, char) for char in secret.replace("\\", "\\\\")), id=".NET"
        ),
        pytest.param(lambda secret: "".join(map(javascript, secret)), id="JavaScript"),
        pytest.param(lambda secret: "".join(map(code_points, secret)), id="JavaScript with code points"),
        pytest.param(lambda secret: "".join(map(octal, secret)), id="C and the shell"),
        pytest.param(html.escape, id="HTML"),
        pytest.param(lambda secret: html.escape(html.escape(secret)), id="HTML twice"),
        pytest.param(
            lambda secret: "".join(c if c.isascii() and c.isalnum() else f"&#x{ord(c):X};" for c in secret), id="XML"
        ),
        pytest.param(lambda secret: json.dumps(html.escape(secret)).replace("&", "\\u0026"), id="HTML in Go's JSON"),
        pytest.param(lambda secret: quote(secret, safe=""), id="URL"),
        pytest.param(quote, id="URL with slashes"),
        pytest.param(quote_plus, id="form"),
        pytest.param(lambda secret: quote(secret, safe="").lower(), id="URL in lower case"),
        pytest.param(lambda secret: quote(quote(secret)), id="URL in URL"),
        pytest.param(lambda secret: urlencode({"payload": json.dumps({"a": secret})}), id="JSON in a form"),
        pytest.param(repr, id="Python's repr"),
        pytest.param(lambda secret: repr(repr(secret)), id="repr of repr"),
        pytest.param(lambda secret: repr({"a": secret.encode()}), id="repr of bytes"),
        pytest.param(lambda secret: ascii([secret]), id="Python's ascii"),
        pytest.param(str.upper, id="upper case"),
        pytest.param(lambda secret: secret.encode().hex(), id="hexadecimal"),
        pytest.param(lambda secret: secret.encode().hex().upper(), id="hexadecimal in upper case"),
    ],
)
@pytest.mark.parametrize("secret", [SECRET, "two words & more", "p@ss\tw\u00f6rd\u4e16\U0001f600x"])
def test_a_secret_is_masked_in_every_spelling(secret, spell):
    """However a receiver writes a secret, no part of it stays."""
    spelled = spell(secret)
    masked = Mask([secret]).text(f"before {spelled} after")

    assert masked.startswith("before ")
    assert masked.endswith(" after")
    assert not any(run.lower() in masked.lower() for run in ("aB7", "F1", "gH3", "words", "ss", "rd"))
    assert "***" in masked


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("prefix", ["", "u", "us", "usr", "user:", "a longer user:"])
@pytest.mark.parametrize("secret", ["pass", "hunter2", "aB7/cD9+eF1/gH3==", "~~~???>>>ÿÿÿ~~~"])
@pytest.mark.parametrize("suffix", ["", "x", ":realm"])
def test_a_secret_is_masked_in_base64_with_anything_around_it(encode, prefix, secret, suffix):
    """`Basic` encodes a user in front of a password, so the digits of the password depend on the user's length."""
    encoded = encode(f"{prefix}{secret}{suffix}".encode()).decode()
    masked = Mask([secret]).text(f'{{"auth": "Basic {encoded}"}}')

    inner = masked.removeprefix('{"auth": "Basic ').removesuffix('"}')
    assert "***" in inner
    assert len(inner.replace("***", "")) <= -(-len(prefix) * 4 // 3) + -(-len(suffix) * 4 // 3) + 3


def test_a_part_of_a_longer_base64_text_stays():
    """What surrounds a secret in base64 can still be read."""
    encoded = base64.b64encode(b"user-name:hunter22").decode()
    assert Mask(["hunter22"]).text(encoded) == base64.b64encode(b"user-name").decode() + "O***"


PEM = "-----BEGIN X-----\nMIIabc7def123\nZZZyyy9xxx999\n-----END X-----\n"


@pytest.mark.parametrize(
    "text",
    [
        PEM,
        "MIIabc7def123",
        PEM.replace("\n", "\r\n"),
        PEM.replace("\n", " "),
        PEM.replace("\n", "\\n"),
        PEM.replace("\n", "<br>"),
        PEM.replace("\n", ""),
        "line 3: ZZZyyy9xxx999 is not base64",
        quote_plus(PEM),
    ],
)
@pytest.mark.parametrize("secret", [PEM, PEM.replace("\n", "\\n"), PEM.replace("\n", "\r\n")])
def test_the_lines_of_a_secret_are_masked(secret, text):
    """A key has several lines, and a receiver can repeat one of them or write them differently."""
    masked = Mask([secret]).text(text)

    assert "MIIabc" not in masked
    assert "ZZZyyy" not in masked
    assert "***" in masked


TOKEN = "tok_Zq9+Zq8/Zq7'Zq6"


@pytest.mark.parametrize("spell", [str, quote_plus, json.dumps, html.escape, lambda text: text.encode().hex()])
def test_a_secret_that_is_cut_is_masked(spell):
    """Wherever a text ends within a secret, the beginning of the secret does not stay."""
    mask, spelled = Mask([TOKEN]), spell(TOKEN).strip('"')
    for length in range(len(spelled)):
        cut = spelled[:length]
        for masked in (mask.text(f"x {cut}", is_cut=True), mask.text(f"x {cut}… y"), mask.text(f"x {cut}... y")):
            assert length < 10 or "Zq9" not in masked
            assert length < 16 or cut[4:16] not in masked


def test_a_text_that_is_cut_within_base64_is_masked():
    """The beginning of a secret in base64 does not stay, either."""
    encoded = base64.b64encode(f"user:{TOKEN}".encode()).decode()
    assert Mask([TOKEN]).text(encoded[:20], is_cut=True) == "dXNlcj***"


def test_cutting_a_text_marks_the_cut():
    """Masking finds a secret that was cut before it was masked, because the cut is marked."""
    assert Mask([TOKEN]).text(cut_text(f"the token {TOKEN} is wrong", 18)) == "the token ***…"
    assert cut_text("short", 5) == "short"


def test_the_end_of_a_stored_body_is_masked():
    """Receipts keep the beginning of a body, which can end within a secret."""
    mask = Mask([TOKEN])
    request = mask.request({"headers": {}, "body": f'{{"a": "{TOKEN[:12]}', "body_bytes": 100})
    response = mask.response({"body": f"x {TOKEN[:12]}", "truncated": True})

    assert request["body"] == '{"a": "***'
    assert response["body"] == "x ***"
    assert mask.response({"body": "x tok_Z", "truncated": False})["body"] == "x tok_Z"


def test_a_secret_that_is_a_number_is_masked():
    """A receiver that repeats a PIN as a number does not reveal it."""
    assert Mask(["48151623"]).data({"pin": 48151623, "other": 4815, "yes": True}) == {
        "pin": MASK,
        "other": 4815,
        "yes": True,
    }


@pytest.mark.parametrize(
    "secret",
    [
        pytest.param("C:" + "\\" * 40, id="backslashes"),
        pytest.param('\\"' * 40, id="quotes with backslashes"),
        pytest.param("\\\n" * 40, id="line breaks with backslashes"),
        pytest.param(" \n" * 40 + "x", id="white space"),
        pytest.param("%25" * 12 + "z", id="percent signs"),
        pytest.param("&amp;" * 20, id="ampersands"),
        pytest.param("a" * 500, id="one letter"),
    ],
)
def test_no_secret_makes_masking_slow(secret):
    """A secret or a response with many backslashes is searched in linear time. A slow search would not end here."""
    mask = Mask([secret, secret + "!"])
    for text in (secret * 50 + "?", json.dumps(json.dumps(secret)) * 20, "\\" * 20_000, "…a" * 5_000, "%25" * 5_000):
        assert isinstance(mask.text(text, is_cut=True), str)


@pytest.mark.parametrize("spell", [str, quote_plus, html.escape, json.dumps])
def test_a_secret_is_masked_at_any_position_of_a_long_text(spell):
    """A long text is searched in pieces, and a secret can be at the boundary of two."""
    secret = "t0k/en+" * 5
    mask = Mask([secret])
    spelled = spell(secret).strip('"')
    for position in range(4096 - len(spelled) - 1, 4096 + 2):
        padding = "x" * position
        assert mask.text(f"{padding}{spelled} {spelled}{padding}") == f"{padding}*** ***{padding}"


@pytest.mark.parametrize("mark", ["...", "…"])
def test_a_text_with_many_cuts_is_masked(mark):
    """After many steps of the search for cut secrets, more than them is masked, and never less."""
    secrets = [f"prefix{number:03d}-suffix" for number in range(50)]
    text = "".join(f"{number}: {secrets[number % 50][: 6 + number % 8]}{mark} " for number in range(5000))
    masked = Mask(secrets).text(text)

    assert "prefix" not in masked
    assert masked.count(mark) == 5000


def test_a_text_with_some_cuts_keeps_the_rest():
    """Nothing but the beginning of a secret is masked in an ordinary log, however many lines are cut."""
    log = "Downloading prefixes... 100 %\n" * 5000
    assert Mask(["prefix-of-a-secret"]).text(f"{log}prefix-of-... {log}") == f"{log}***... {log}"


def test_a_secret_that_is_not_text_is_masked():
    """The environment can hold bytes that are not UTF-8."""
    assert Mask(["pass\udcff\udcfeword"]).text("x pass\udcff\udcfeword") == "x ***"
    assert Mask(["pass\ud800word"]).data({"a": "pass\ud800word"}) == {"a": "***"}
