"""Signatures agree with the specification's example and with its own library."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from upshot.actions.standard_webhooks import parse_secret, sign, verification_error

# The example in the specification and in the test suites of its libraries.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIME = datetime.fromtimestamp(1614265330, UTC)
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
OTHER = "whsec_" + base64.b64encode(b"another secret, also 32 bytes...").decode()


def test_the_example_of_the_specification_is_reproduced():
    """With the id, time, body and secret of the specification, the signature is the one that it prints."""
    headers = sign([parse_secret(SECRET)], message_id=MESSAGE, time=TIME, body=BODY)

    assert headers == {"webhook-id": MESSAGE, "webhook-timestamp": "1614265330", "webhook-signature": SIGNATURE}


@pytest.mark.parametrize("receiver_secret", [SECRET, OTHER], ids=["the old secret", "the new secret"])
def test_a_message_with_two_signatures_verifies_with_either_secret(receiver_secret):
    """While a secret is rotated, a receiver that has the old or the new secret can verify messages."""
    now = datetime.now(UTC)
    headers = sign([parse_secret(OTHER), parse_secret(SECRET)], message_id=MESSAGE, time=now, body=BODY)

    Verifier(receiver_secret).verify(BODY, headers)
    assert verification_error(parse_secret(receiver_secret), headers, BODY, now=now) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param({"webhook-id": "msg_other"}, "signature", id="another id"),
        pytest.param({"webhook-signature": "v1,AAAA"}, "signature", id="another signature"),
        pytest.param({"webhook-signature": "v1,ünicode"}, "signature", id="signature beyond ASCII"),
        pytest.param({"webhook-signature": ""}, "no webhook-signature", id="no signature"),
        pytest.param({"webhook-timestamp": "1614265331"}, "signature", id="another time"),
        pytest.param({"webhook-timestamp": "1614260000"}, "five minutes", id="long ago"),
        pytest.param({"webhook-timestamp": "9" * 400}, "five minutes", id="far from now"),
        pytest.param({"webhook-timestamp": "soon"}, "five minutes", id="not a time"),
    ],
)
def test_a_changed_message_does_not_verify(change, reason):
    """Verifying a changed message returns the reason why it is not authentic."""
    headers = sign([parse_secret(SECRET)], message_id=MESSAGE, time=TIME, body=BODY) | change

    error = verification_error(parse_secret(SECRET), headers, BODY, now=TIME + timedelta(seconds=10))

    assert error is not None
    assert reason in error


def test_another_body_does_not_verify():
    """If the body has one more byte, this verifier and that of the library both refuse it."""
    now = datetime.now(UTC)
    headers = sign([parse_secret(SECRET)], message_id=MESSAGE, time=now, body=BODY)

    assert verification_error(parse_secret(SECRET), headers, BODY + b" ", now=now)
    with pytest.raises(WebhookVerificationError):
        Verifier(SECRET).verify(BODY + b" ", headers)


@pytest.mark.parametrize(
    "secret",
    [
        "", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_not base64!", "whsec_dG9vIHNob3J0", "whsec_ü",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", "whsec_" + base64.b64encode(b"x" * 65).decode(),
        "whsec_" + base64.b64encode(b"x" * 23).decode(),
    ],
)  # fmt: skip
def test_an_invalid_secret_is_refused_without_showing_it(secret):
    """The message says how to make a secret, and does not contain the invalid one."""
    with pytest.raises(ValueError, match="openssl rand") as raised:
        parse_secret(secret)

    assert not secret.removeprefix("whsec_") or secret not in str(raised.value)


@pytest.mark.parametrize("length", [24, 32, 64])
def test_secrets_of_24_to_64_bytes_are_valid(length):
    """A secret has 24 to 64 bytes, as the specification says. A final line break is ignored."""
    assert parse_secret("whsec_" + base64.b64encode(b"x" * length).decode() + "\n") == b"x" * length
