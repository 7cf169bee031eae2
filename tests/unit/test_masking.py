"""Stored data contains no secrets."""

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from upshot.masking import MASK, Mask


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
