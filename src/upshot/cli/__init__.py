"""
The command line: thin commands over the REST API, and commands that run the processes of Upshot.

Exit codes: 0 means success. 1 means that the command failed; one line on standard error says why.
2 means that the command or one of its arguments is invalid.
"""

from upshot.cli.root import main as main
