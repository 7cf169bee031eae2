"""Receive, verify, read and remove blobs: the bytes of the files of artifact versions."""
