"""
The command line: thin commands over the REST API, and the processes themselves.

Exit codes: 0 it worked; 1 it did not, and one line on standard error says why; 2 the command was
not understood.
"""

from upshot.cli.root import main as main
