"""Secrets do not survive into what is kept."""

from upshot.masking import Mask


def test_a_secret_is_masked_wherever_it_turns_up():
    """In texts, nested values and keys alike."""
    mask = Mask(["s3cr3t-token"])
    data = {"headers": {"Authorization": "Bearer s3cr3t-token"}, "list": [1, "x s3cr3t-token y"], "s3cr3t-token": None}
    assert mask.data(data) == {"headers": {"Authorization": "Bearer ***"}, "list": [1, "x *** y"], "***": None}


def test_a_secret_is_masked_in_its_json_and_url_spelling():
    """Quotes, line breaks and slashes do not hide it."""
    mask = Mask(['a"b\nc/d é'])
    assert mask.text('{"x": "a\\"b\\nc/d \\u00e9"}') == '{"x": "***"}'
    assert mask.text('{"x": "a\\"b\\nc/d é"}') == '{"x": "***"}'
    assert mask.text("https://h/?t=a%22b%0Ac%2Fd%20%C3%A9") == "https://h/?t=***"


def test_of_two_secrets_the_longer_is_masked_whole():
    """A secret that contains another leaves no rest behind."""
    assert Mask(["token", "token-extended"]).text("token-extended token") == "*** ***"


def test_too_short_a_value_leaves_the_text_alone():
    """A value under four characters would blank out half of every receipt."""
    assert Mask(["a", ""]).text("a banana") == "a banana"


def test_credentials_in_headers_are_masked_whatever_they_are_made_of():
    """`Basic` encodes user and password together, so no value would be found in it."""
    request = {"method": "POST", "headers": {"Authorization": "Basic dXNlcjpwYXNz", "X-Other": "kept"}, "body": "{}"}
    assert Mask([]).request(request)["headers"] == {"Authorization": "***", "X-Other": "kept"}
    assert Mask([]).request(None) is None


def test_a_secret_that_a_filter_transformed_is_masked():
    """In base64, in capitals and in small letters."""
    mask = Mask(["Secret/Value"])
    assert mask.text("U2VjcmV0L1ZhbHVl SECRET/VALUE secret/value") == "*** *** ***"
