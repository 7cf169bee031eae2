"""
Job tokens, with which a job calls the REST API under its own name.

A token is `upj_<job id>_<mac>`. The mac is an HMAC-SHA256 of the job id with the installation's key. No token is
stored: it can be derived again at any time, and it is valid while its job is active.
"""

from __future__ import annotations

import hashlib
import hmac
import re

from upshot.ids import JobId

PREFIX = "upj_"

_SYNTAX = re.compile(rf"{PREFIX}(job_[0-9a-z]+)_([0-9a-f]{{64}})", re.ASCII)
_PURPOSE = b"job-token:"  # keeps tokens apart from anything else that may be derived from the key


def make(key: bytes, job_id: JobId) -> str:
    """Return the token of a job."""
    return f"{PREFIX}{job_id}_{_mac(key, job_id)}"


def parse(token: str) -> tuple[JobId, str] | None:
    """Return the job id that a token names and its mac, which may be wrong; None if this is not a job token."""
    match = _SYNTAX.fullmatch(token)
    return (JobId(match[1]), match[2]) if match else None


def verify(key: bytes, token: str) -> JobId | None:
    """Return the id of the job that the token belongs to; None if the token was not made with this key."""
    parsed = parse(token)
    if parsed is None:
        return None
    job_id, mac = parsed
    return job_id if hmac.compare_digest(mac, _mac(key, job_id)) else None


def _mac(key: bytes, job_id: JobId) -> str:
    return hmac.new(key, _PURPOSE + job_id.encode(), hashlib.sha256).hexdigest()
