"""Parse automation files. Every error is reported at its file and line."""
