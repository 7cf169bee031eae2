"""
A real S3 server for tests: moto, behind a proxy that is as strict as AWS.

moto accepts wrong keys, forged and expired addresses and wrong checksums. The proxy recomputes the signature of every
request (AWS Signature Version 4, in headers and in presigned URLs), and refuses a wrong one, an expired address, a
wrong checksum, and a wrong length.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import logging
import re
import secrets
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from moto.server import ThreadedMotoServer

from upshot.adapters.blobs.s3 import S3Blobs, S3Options

ACCESS_KEY_ID = "AKIATESTONLY00000000"
SECRET_ACCESS_KEY = "a-secret-key-that-only-tests-use-000000"
REGION = "eu-central-1"
BUCKET = "models"
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<credential>[^,]+), ?SignedHeaders=(?P<headers>[^,]+), ?"
    r"Signature=(?P<signature>\w+)"
)
_NOT_FORWARDED = frozenset({"host", "connection", "transfer-encoding", "content-length"})


class Refused(Exception):
    """The request is refused, with one of S3's codes."""


class StrictS3:
    """
    The server.

    Attributes:
        url: Its endpoint.
        refusals: Codes of the refused requests, in order.
        skew: Added to the time that it compares signatures with.
    """

    def __init__(self, moto_port: int) -> None:
        self.moto_port = moto_port
        self.refusals: list[str] = []
        self.requests: list[str] = []
        self.skew = timedelta()
        methods = ("GET", "PUT", "POST", "HEAD", "DELETE")
        handler = type(
            "Handler", (_Handler,), {"s3": self, **{f"do_{method}": _Handler.handle_any for method in methods}}
        )
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign] # clients may disconnect
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()

    def check(self, method: str, target: str, headers: Message, body: bytes) -> None:
        """
        Check signature, time, checksums and length of a request.

        Raises:
            Refused: One of them is wrong.
        """
        path, _, query = target.partition("?")
        params = urllib.parse.parse_qsl(query, keep_blank_values=True)
        given = dict(params)
        if "X-Amz-Signature" in given:
            signature = given["X-Amz-Signature"]
            credential, signed = given["X-Amz-Credential"], given["X-Amz-SignedHeaders"]
            stamp, payload = given["X-Amz-Date"], headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
            params = [(name, value) for name, value in params if name != "X-Amz-Signature"]
            expires = timedelta(seconds=int(given["X-Amz-Expires"]))
        elif match := _AUTHORIZATION.fullmatch(headers.get("authorization", "")):
            signature, credential, signed = match["signature"], match["credential"], match["headers"]
            stamp, payload = headers["x-amz-date"], headers["x-amz-content-sha256"]
            expires = timedelta(minutes=15)
        else:
            raise Refused("AccessDenied")
        signed_at = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if datetime.now(UTC) + self.skew > signed_at + expires:
            raise Refused("ExpiredToken")
        key_id, date, region, service, kind = credential.split("/")
        if (key_id, date, region, service, kind) != (ACCESS_KEY_ID, stamp[:8], REGION, "s3", "aws4_request"):
            raise Refused("InvalidAccessKeyId")
        names = signed.split(";")
        if "host" not in names:
            raise Refused("AccessDenied")
        request = "\n".join(
            [
                method,
                path,
                "&".join(f"{_quote(name)}={_quote(value)}" for name, value in sorted(params)),
                *(f"{name}:{' '.join(headers[name].split())}" for name in names),
                "",
                signed,
                payload,
            ]
        )
        scope = f"{date}/{region}/{service}/{kind}"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        key = f"AWS4{SECRET_ACCESS_KEY}".encode()
        for part in (date, region, service, kind):
            key = hmac.digest(key, part.encode(), "sha256")
        if not hmac.compare_digest(hmac.digest(key, text.encode(), "sha256").hex(), signature):
            raise Refused("SignatureDoesNotMatch")
        if payload not in ("UNSIGNED-PAYLOAD", hashlib.sha256(body).hexdigest()):
            raise Refused("XAmzContentSHA256Mismatch")
        self._check_body(headers, body)

    @staticmethod
    def _check_body(headers: Message, body: bytes) -> None:
        checksum = headers.get("x-amz-checksum-sha256")
        if checksum and checksum != base64.b64encode(hashlib.sha256(body).digest()).decode():
            raise Refused("BadDigest")
        md5 = headers.get("content-md5")
        if md5 and md5 != base64.b64encode(hashlib.md5(body).digest()).decode():
            raise Refused("BadDigest")


class _Handler(BaseHTTPRequestHandler):
    s3: StrictS3
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        """Check a request, and pass it on."""
        length = self.headers.get("content-length")
        if length is None and self.command in ("PUT", "POST"):
            return self._refuse("MissingContentLength", 411)
        body = self.rfile.read(int(length or 0))
        if len(body) != int(length or 0):
            return self._refuse("IncompleteBody", 400)
        self.s3.requests.append(f"{self.command} {self.path.partition('?')[0]}")
        try:
            self.s3.check(self.command, self.path, self.headers, body)
        except Refused as error:
            return self._refuse(str(error), 400 if str(error) in ("BadDigest", "XAmzContentSHA256Mismatch") else 403)
        connection = http.client.HTTPConnection("127.0.0.1", self.s3.moto_port)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _NOT_FORWARDED}
        connection.request(self.command, self.path, body, {**headers, "Host": f"127.0.0.1:{self.s3.moto_port}"})
        response = connection.getresponse()
        content = response.read()
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "date", "server"):
                self.send_header(name, value)
        length_header = response.getheader("content-length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length_header or str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        connection.close()
        return None

    def _refuse(self, code: str, status: int) -> None:
        self.s3.refusals.append(code)
        content = f"<Error><Code>{code}</Code><Message>refused by the strict server</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def _quote(text: str) -> str:
    return urllib.parse.quote(text, safe="-_.~")


@contextmanager
def strict_s3() -> Iterator[StrictS3]:
    """Start the server with an empty bucket."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    _, port = moto.get_host_and_port()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request(
        "PUT",
        f"/{BUCKET}",
        f"<CreateBucketConfiguration><LocationConstraint>{REGION}</LocationConstraint></CreateBucketConfiguration>",
    )
    created = connection.getresponse()
    assert created.status == 200, created.read()
    server = StrictS3(port)
    try:
        yield server
    finally:
        server.stop()
        moto.stop()


def s3_files(server: StrictS3, **options: Any) -> S3Blobs:
    """Return files in the bucket, below a prefix that nobody else uses."""
    prefix = secrets.token_hex(8)
    defaults = {
        "endpoint": server.url,
        "region": REGION,
        "access_key_id": ACCESS_KEY_ID,
        "secret_access_key": SECRET_ACCESS_KEY,
    }
    return S3Blobs(S3Options(**{"url": f"s3://{BUCKET}/{prefix}", **defaults, **options}))
