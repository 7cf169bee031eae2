"""Signatures, against the specification's own example and its own library."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from upshot.actions.standard_webhooks import find_fault, read_secret, sign

# The example of the specification and of the test suites of its libraries.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE = "msg_p5jXN8AQM9LWM0D4loKWxJek"
MOMENT = datetime.fromtimestamp(1614265330, UTC)
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
OTHER = "whsec_" + base64.b64encode(b"another secret, also 32 bytes...").decode()


def test_the_specifications_example_comes_out_right():
    """Same id, time, body and secret: the signature that the specification prints."""
    headers = sign([read_secret(SECRET)], message_id=MESSAGE, moment=MOMENT, body=BODY)

    assert headers == {"webhook-id": MESSAGE, "webhook-timestamp": "1614265330", "webhook-signature": SIGNATURE}


@pytest.mark.parametrize("receiver_has", [SECRET, OTHER], ids=["the old secret", "the new secret"])
def test_while_a_secret_is_rotated_either_verifies(receiver_has):
    """Signed with both, a message is believed by a receiver that has one of them."""
    now = datetime.now(UTC)
    headers = sign([read_secret(OTHER), read_secret(SECRET)], message_id=MESSAGE, moment=now, body=BODY)

    Verifier(receiver_has).verify(BODY, headers)
    assert find_fault(read_secret(receiver_has), headers, BODY, now=now) is None


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        pytest.param({"webhook-id": "msg_other"}, "signature", id="another id"),
        pytest.param({"webhook-signature": "v1,AAAA"}, "signature", id="another signature"),
        pytest.param({"webhook-signature": "v1,ünicode"}, "signature", id="signature beyond ASCII"),
        pytest.param({"webhook-signature": ""}, "no webhook-signature", id="no signature"),
        pytest.param({"webhook-timestamp": "1614265331"}, "signature", id="another time"),
        pytest.param({"webhook-timestamp": "1614260000"}, "five minutes", id="long ago"),
        pytest.param({"webhook-timestamp": "9" * 400}, "five minutes", id="far from now"),
        pytest.param({"webhook-timestamp": "soon"}, "five minutes", id="no time"),
    ],
)
def test_what_was_changed_on_the_way_is_not_believed(change, fault):
    """The verifying side tells what is wrong."""
    headers = sign([read_secret(SECRET)], message_id=MESSAGE, moment=MOMENT, body=BODY) | change

    found = find_fault(read_secret(SECRET), headers, BODY, now=MOMENT + timedelta(seconds=10))

    assert found is not None
    assert fault in found


def test_another_body_is_not_believed():
    """One byte more, and both verifiers refuse."""
    now = datetime.now(UTC)
    headers = sign([read_secret(SECRET)], message_id=MESSAGE, moment=now, body=BODY)

    assert find_fault(read_secret(SECRET), headers, BODY + b" ", now=now)
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
def test_a_secret_of_another_form_is_refused_without_being_shown(secret):
    """The message says how to make one, and never what was given."""
    with pytest.raises(ValueError, match="openssl rand") as raised:
        read_secret(secret)

    assert not secret.removeprefix("whsec_") or secret not in str(raised.value)


@pytest.mark.parametrize("length", [24, 32, 64])
def test_secrets_of_24_to_64_bytes_are_taken(length):
    """The bounds of the specification, and a line break at the end does not matter."""
    assert read_secret("whsec_" + base64.b64encode(b"x" * length).decode() + "\n") == b"x" * length
