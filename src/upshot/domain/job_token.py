"""
Job tokens: what a job bears when it asks the REST API, in its own name.

`upj_<job id>_<mac>`, where the mac is an HMAC-SHA256 of the id with the installation's key. Nothing
is kept of it: it can be made again at any time, and is good while its job is active.
"""

from __future__ import annotations

import hashlib
import hmac
import re

PREFIX = "upj_"

_SHAPE = re.compile(rf"{PREFIX}(job_[0-9a-z]+)_([0-9a-f]{{64}})", re.ASCII)
_PURPOSE = b"job-token:"  # the key may come to make other things too; none of them is a token


def make(key: bytes, job_id: str) -> str:
    """The token of a job."""
    return f"{PREFIX}{job_id}_{_mac(key, job_id)}"


def read(token: str) -> tuple[str, str] | None:
    """The id of the job that a token names, and its mac, right or wrong; None for what is no job's token."""
    found = _SHAPE.fullmatch(token)
    return (found[1], found[2]) if found else None


def verify(key: bytes, token: str) -> str | None:
    """The id of the job whose token this is; None when it was not made with the key."""
    told = read(token)
    if told is None:
        return None
    job_id, mac = told
    return job_id if hmac.compare_digest(mac, _mac(key, job_id)) else None


def _mac(key: bytes, job_id: str) -> str:
    return hmac.new(key, _PURPOSE + job_id.encode(), hashlib.sha256).hexdigest()
