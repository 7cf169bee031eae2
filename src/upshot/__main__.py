"""`python -m upshot` is the command `upshot`."""

from upshot.cli import main

if __name__ == "__main__":
    main(prog_name="upshot")
