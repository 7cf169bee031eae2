"""The bytes of blobs, in a directory or in a bucket."""
