"""Run the command `upshot` as `python -m upshot`."""

from upshot.cli import main

if __name__ == "__main__":
    main(prog_name="upshot")
