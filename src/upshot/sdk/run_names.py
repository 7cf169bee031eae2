"""The ids and names that a run gets if its program gives none."""

from __future__ import annotations

import secrets

_ID_CHARS = "abcdefghijklmnopqrstuvwxyz0123456789"
_ID_LENGTH = 8
_SESSION_LENGTH = 20
_FIRST_WORDS = (  # noqa: SIM905 - one word a line would be 80 lines
    "amber bold brave bright brisk calm clear clever cool copper crisp deep eager early fair fast fine fresh gentle "
    "glad golden grand green happy honest jolly keen kind light lively lucky mellow mild neat noble open plain proud "
    "quick quiet rapid ready red sharp silent silver smooth soft solid steady still sunny sweet swift tidy true vivid "
    "warm wide wild wise young"
).split()
_SECOND_WORDS = (  # noqa: SIM905 - one word a line would be 80 lines
    "acorn arch badger bay beach birch bird brook canyon cedar cliff cloud coral crane creek dawn deer delta dune "
    "eagle elm ember falcon fern field finch fjord flame flower fog forest fox garden glacier grove harbor hawk heron "
    "hill island lake lark leaf lily lynx maple meadow mist moon moss oak ocean otter owl pebble pine pond quail rain "
    "reef ridge river robin rose sea shore sky snow spring star stone storm stream sun swan tide tree valley wave wind "
    "wolf wood"
).split()


def new_run_id() -> str:
    """Make the id of a run: 8 letters and digits."""
    return _random(_ID_LENGTH)


def new_session() -> str:
    """Make the id of a session, which is one `init` of a run."""
    return _random(_SESSION_LENGTH)


def new_run_name() -> str:
    """Make the name of a run: two words."""
    return f"{secrets.choice(_FIRST_WORDS)} {secrets.choice(_SECOND_WORDS)}"


def _random(length: int) -> str:
    return "".join(secrets.choice(_ID_CHARS) for _ in range(length))
