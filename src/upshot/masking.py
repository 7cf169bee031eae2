r"""
Remove secrets from stored data, by value, wherever they appear and however they are spelled.

Systems repeat a secret in many spellings: PHP writes `\/` for `/`, .NET writes `\u002B` for `+`, a URL has `%2B`, and a
page has `&#43;`. `_spellings` lists the spellings of one character, and a secret is searched as a sequence of them. All
spellings leave ASCII letters and digits as they are. The longest run of these in a secret is its clue. A text without
the clue is not searched. Base64 and hexadecimal digits are the only spellings of whole secrets.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from html.entities import html5
from time import sleep
from typing import Any

import orjson

from upshot.clock import stopwatch
from upshot.storable import MAX_DEPTH, TOO_DEEP

MASK = "***"
#: Headers that contain credentials, whether or not their value is a known secret: `Basic` encodes it.
CREDENTIAL_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key", "x-auth-token"})
MIN_SECRET_CHARS = 4  # masking a shorter value would remove half of every text, and it is no secret

MAX_CUT_BYTES = 128 * 1024  #: size of data as JSON; in larger data, a cut secret before `…` or `...` is not searched
_MIN_CLUE_CHARS = 3  # a shorter clue is in every text
_MAX_CACHED_MASKS = 512
_MAX_SPELLING_CHARS = 16  # length of one spelled character of a secret, in a text that is cut
_SPELLINGS_BEGIN_WITH = frozenset("%&\\")
_PIECE_CHARS = 1024  # length of the text of one search, which takes less than a millisecond
_LONG_TEXT_CHARS = 16 * 1024  # longer texts are masked in threads, which make way for the event loop
_SECONDS_BETWEEN_PAUSES = 0.001
_PAUSE_SECONDS = 0.0001
_MAX_DIGITS_BEFORE = 3  # base64 digits in front of a needle
#: Steps of the search for cut secrets, per character of the text. After them, everything that begins like a secret is
#: masked up to the cut.
_CUT_STEPS_PER_CHAR = 0.5
_MIN_CUT_STEPS = 1000

_START = re.compile(f"[A-Za-z0-9]{{0,{MIN_SECRET_CHARS}}}")
_RUN = re.compile(r"[A-Za-z0-9]+")
_CUT = re.compile(r"(?:…|\.\.\.)+")  #: how programs mark a cut text
_CUT_MARKS = ("…".encode(), b"...")
#: a real line break, or an escaped one, as keys in the environment often have it
_LINE_BREAK = re.compile(r"[\r\n]+|(?:\\r)?\\n")
_PIECE = re.compile(r"(?P<backslashes>\\+)(?P<next>\s+|[^\\]?)|\s+|.", re.DOTALL)

_BACKSLASH = r"(?:\\(?:u005C|u\{0*5C\}|x5C|134)?|%(?:25){0,4}5C|&(?:amp;){0,4}(?:\#0*92|\#x0*5C|bsol);)"
_BACKSLASHES = rf"{_BACKSLASH}{{1,16}}+"  # JSON in JSON in JSON writes 8 for one
_AMPERSAND = rf"(?:&|{_BACKSLASHES}u0026)(?:amp;){{0,4}}"
_ESCAPED_SPACE = r"(?:[nrtfv]|u00(?:20|0[9ABCD])|u\{0*(?:20|[9ABCD])\}|x(?:20|0[9ABCD])|0(?:40|1[1-5]))"
_PLAIN_SPACE = (
    rf"(?:\s|%(?:25){{0,4}}(?:20|0[9ABCD])"
    rf"|{_AMPERSAND}(?:\#(?:0*(?:32|9|1[0123])|x0*(?:20|[9ABCD]))|nbsp|NewLine|Tab);)"
)
_LETTER_ESCAPES = {"\b": "b", "\f": "f", "\x00": "0", "\x1b": "e"}
_ENTITIES: dict[str, list[str]] = {}
for _name, _characters in html5.items():
    if _name.endswith(";"):
        _ENTITIES.setdefault(_characters, []).append(_name)

#: What remains at the end of a text when it is cut within the spelling of a character. It can have several parts, such
#: as the octets of UTF-8 in a URL.
_PART_OF_SPELLING = re.compile(
    rf"(?:(?>{_BACKSLASH}{{1,16}}+(?:u[0-9A-F{{]{{0,8}}|x[0-9A-F]{{0,2}}|[0-7]{{1,3}})?)"
    rf"|%[0-9A-F]{{0,9}}+|{_AMPERSAND}[#A-Z0-9]{{0,12}}+|[�\udc80-\udcff]){{0,8}}+",
    re.IGNORECASE,
)
_PART_OF_SPELLING_AT_END = re.compile(rf"{_PART_OF_SPELLING.pattern}\Z", re.IGNORECASE)


def cut_text(text: str, max_chars: int) -> str:
    """Cut a text to a maximum length and append `…`. `Mask` recognizes a secret that was cut before this mark."""
    return text if len(text) <= max_chars else f"{text[:max_chars]}…"


class Mask:
    """
    Replaces secrets in any spelling, in upper or lower case, and single lines of a secret with several lines.

    Before `…` and `...`, where a text was cut, the beginning of a secret is replaced, too.

    Args:
        values: The secrets. Those with fewer than four characters are not masked.
    """

    def __init__(self, values: Iterable[str]) -> None:
        needles = {(needle.text, needle.is_base64): needle for value in values for needle in _needles(value)}
        # Longest first, because one secret may contain another.
        self._needles = sorted(needles.values(), key=lambda needle: len(needle.text), reverse=True)
        self._by_clue = [(needle.clue or "", needle) for needle in self._needles]
        clues = {clue.encode() for clue, _ in self._by_clue}
        self._clues = None if b"" in clues else sorted(clues)
        self._starts = sorted({needle.start.encode() for needle in self._needles})

    def text(self, text: str, *, is_cut: bool = False) -> str:
        """
        Return the text without the secrets.

        Args:
            text: Any text.
            is_cut: Whether it is the beginning of a longer text, so that it may end within a secret.
        """
        lowered = text.lower()
        pauses = _Pauses(text)
        for clue, needle in self._by_clue:
            if clue in lowered:
                text = needle.replace_in(text, pauses)
                lowered = text.lower()
        if is_cut or "…" in text or "..." in text:
            text = self._without_cut_secrets(text, lowered, pauses, is_cut=is_cut)
        return text

    def start_of_cut_secret(self, text: str) -> int:
        """
        Return where a text can be cut that goes on: before what may be the beginning of a secret.

        One character is enough, because the rest of the secret would not be recognized without it.
        """
        effort, end = _Effort(text), len(text)
        starts = (needle.start_of_cut(text, 0, end, effort, min_chars=1) for needle in self._needles)
        spelling = _PART_OF_SPELLING_AT_END.search(text, max(0, end - _MAX_SPELLING_CHARS * MIN_SECRET_CHARS))
        return min((start for start in starts if start is not None), default=spelling.start() if spelling else end)

    def request(self, request: Mapping[str, Any] | None) -> Any:
        """Return a request without the secrets, and without the values of headers that contain credentials."""
        if request is None or "headers" not in request:
            return self.data(request)
        headers = {
            name: MASK if name.lower() in CREDENTIAL_HEADERS else value for name, value in request["headers"].items()
        }
        masked = self.data({**request, "headers": headers})
        body = request.get("body")
        return self._with_cut_body(masked, isinstance(body, str) and len(body.encode()) < request.get("body_bytes", 0))

    def response(self, response: Mapping[str, Any] | None) -> Any:
        """Return a response without the secrets."""
        return self._with_cut_body(self.data(response), response is not None and response.get("truncated", False))

    def _with_cut_body(self, masked: Any, is_cut: bool) -> Any:  # noqa: FBT001 - private
        if is_cut and isinstance(body := masked.get("body"), str):
            return {**masked, "body": self.text(body, is_cut=True)}
        return masked

    def data(self, data: Any, *, is_cut: bool = False) -> Any:
        """
        Return plain data without the secrets, in keys and in values.

        Lists and objects below `MAX_DEPTH` levels are left out, because they could contain a secret.

        Args:
            data: Plain data.
            is_cut: Whether a text in it may end within a secret.
        """
        may_contain_secret = (is_cut and bool(self._needles)) or self._may_contain_secret(data)
        return self._masked(data, MAX_DEPTH, is_cut=is_cut) if may_contain_secret else data

    def _may_contain_secret(self, data: Any) -> bool:
        """Return False if no secret is in the data as JSON. Searching there takes a fraction of the time of masking."""
        if not self._needles or self._clues is None:
            return bool(self._needles)
        try:
            text = orjson.dumps(data)
        except TypeError:
            return True
        lowered = text.lower()
        for clue in self._clues:  # no `any(…)`, because a generator would take as long as the search
            if clue in lowered:
                return True
        # Only short data, such as reasons and receipts, contains texts that were cut.
        if len(text) > MAX_CUT_BYTES or not (_CUT_MARKS[0] in text or _CUT_MARKS[1] in text):
            return False
        return any(start in lowered for start in self._starts)

    def _masked(self, data: Any, depth: int, *, is_cut: bool) -> Any:
        if isinstance(data, str):
            return self.text(data, is_cut=is_cut)
        if isinstance(data, int | float) and not isinstance(data, bool):
            return data if self.text(str(data)) == str(data) else MASK
        if isinstance(data, Mapping | list | tuple) and depth == 0:
            return TOO_DEEP
        if isinstance(data, Mapping):
            return {
                self._masked(key, depth - 1, is_cut=False): self._masked(value, depth - 1, is_cut=is_cut)
                for key, value in data.items()
            }
        if isinstance(data, list | tuple):
            return [self._masked(item, depth - 1, is_cut=is_cut) for item in data]
        return data

    def _without_cut_secrets(self, text: str, lowered: str, pauses: _Pauses, *, is_cut: bool) -> str:
        needles = [needle for needle in self._needles if needle.start in lowered]
        if not needles:
            return text
        search = _CutSearch(needles, text)
        parts, start = [], 0
        for mark in (*_CUT.finditer(text), None):
            pauses.pause()
            end = mark.start() if mark else len(text)
            found = search.start_of_cut(start, end) if mark or is_cut else None
            parts.append(text[start:end] if found is None else text[start:found] + MASK)
            if mark:
                parts.append(mark.group())
                start = mark.end()
        return "".join(parts)


@lru_cache(_MAX_CACHED_MASKS)
def mask_of(values: frozenset[str]) -> Mask:
    """Return the mask of these secrets. It is cached, because every attempt of an automation needs it."""
    return Mask(values)


class _Effort:
    """Counts the steps of a search that a hostile text could make long."""

    def __init__(self, text: str) -> None:
        self.steps = 0
        self._max_steps = max(_MIN_CUT_STEPS, round(len(text) * _CUT_STEPS_PER_CHAR))

    @property
    def is_spent(self) -> bool:
        """Whether the rest of the search must be quick."""
        return self.steps >= self._max_steps


class _Pauses:
    """
    Pauses in the search of a long text. Without them, an event loop beside it would wait for Python's lock.

    Args:
        text: The text. In a short one there are no pauses, because it can be searched on an event loop.
    """

    def __init__(self, text: str) -> None:
        self._is_long = len(text) > _LONG_TEXT_CHARS
        self._paused_at = stopwatch() if self._is_long else 0.0

    def pause(self) -> None:
        """Let other threads run if they have waited for a millisecond."""
        if self._is_long and stopwatch() - self._paused_at > _SECONDS_BETWEEN_PAUSES:
            sleep(_PAUSE_SECONDS)
            self._paused_at = stopwatch()


class _CutSearch:
    """
    Searches a text for needles within which parts of it end.

    Args:
        needles: What to search for.
        text: The text.
    """

    def __init__(self, needles: Sequence[_Needle], text: str) -> None:
        self._needles = needles
        self._text = text
        self._effort = _Effort(text)
        self._reach = _MAX_SPELLING_CHARS * max(len(needle.text) for needle in needles)
        #: finds everything that begins like a needle, for when the effort is spent
        self._starts = re.compile("|".join({needle.start for needle in needles}), re.IGNORECASE)

    def start_of_cut(self, start: int, end: int) -> int | None:
        """Return where the first needle begins within which the text from `start` to `end` ends, otherwise None."""
        if self._effort.is_spent:
            beginning = self._starts.search(self._text, max(start, end - self._reach), end)
            return None if beginning is None else max(start, beginning.start() - _MAX_DIGITS_BEFORE)
        found = (needle.start_of_cut(self._text, start, end, self._effort) for needle in self._needles)
        return min((position for position in found if position is not None), default=None)


class _Needle:
    """
    A text to search in all its spellings.

    Args:
        text: A secret, or a part of its encoding.
        is_base64: Whether it is base64: upper and lower case differ, and `-_` can be written for `+/`.
        before: Number of base64 digits before it that also hold bits of the secret.
        after: The same after it.
    """

    def __init__(self, text: str, *, is_base64: bool = False, before: int = 0, after: int = 0) -> None:
        self.text = text
        self.is_base64 = is_base64
        self._before = before
        self._after = after
        clue = max(_RUN.findall(text), key=len, default="").lower()
        #: its first letters and digits, in lower case; every text that ends within the needle contains them
        self.start = _START.match(text).group().lower()  # type: ignore[union-attr]  # it always matches
        #: every text with the needle contains it, ignoring case; None if there is no such text
        self.clue = clue if len(clue) >= _MIN_CLUE_CHARS else None

    def replace_in(self, text: str, pauses: _Pauses) -> str:
        """Return the text with the mask in place of the needle."""
        if not self.is_base64 and self.text in text:
            text = text.replace(self.text, MASK)
            if self.clue is not None and self.clue not in text.lower():
                return text
        return self._replace_in_pieces(text, pauses)

    def _replace_in_pieces(self, text: str, pauses: _Pauses) -> str:
        """Search one KB at a time, because other threads stand still during each call of `re`."""
        reach = _MAX_SPELLING_CHARS * 4 * len(self.text)
        parts: list[str] = []
        position = 0
        for end in range(_PIECE_CHARS, len(text) + _PIECE_CHARS, _PIECE_CHARS):
            pauses.pause()
            for match in self._pattern.finditer(text, max(position, end - _PIECE_CHARS), end + reach):
                if match.start() >= end:
                    break  # the next piece begins with it
                parts += text[position : match.start()], MASK
                position = match.end()
        return "".join((*parts, text[position:])) if parts else text

    def start_of_cut(
        self, text: str, start: int, end: int, effort: _Effort, *, min_chars: int = MIN_SECRET_CHARS
    ) -> int | None:
        """
        Return where the needle begins if the text between `start` and `end` ends within it, otherwise None.

        At least `min_chars` of it must be there. When the effort is spent, return where something begins that may be
        the needle.
        """
        start = max(start, end - _MAX_SPELLING_CHARS * len(self.text))
        flags = re.NOFLAG if self.is_base64 else re.IGNORECASE
        for beginning in _compiled("".join(self._tokens[:min_chars]), flags).finditer(text, start, end):
            if effort.is_spent:
                return max(start, beginning.start() - self._before)
            effort.steps += 1
            position, ambiguous = beginning.end(), end
            for token in self._tokens[min_chars:]:
                effort.steps += 1
                match = _compiled(token, flags).match(text, position, end)
                if match is None:
                    break
                if text[position] in _SPELLINGS_BEGIN_WITH:  # it may also begin a longer spelling that is cut
                    ambiguous = position
                position = match.end()
            if position == end or any(
                _PART_OF_SPELLING.fullmatch(text, cut, end) for cut in (position, ambiguous) if cut < end
            ):
                return max(start, beginning.start() - self._before)
        return None

    @cached_property
    def _tokens(self) -> list[str]:
        return list(_tokens(self.text, is_base64=self.is_base64))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        pattern = "".join(self._tokens)
        if not self.is_base64:
            return re.compile(pattern, re.IGNORECASE)
        padding = f"(?:=|%3[Dd]|{_BACKSLASHES}u003[Dd]){{0,2}}"
        return re.compile(
            f"[A-Za-z0-9+/_-]{{0,{self._before}}}{pattern}" + (f"[A-Za-z0-9+/_-]?{padding}" if self._after else "")
        )


def _needles(value: str) -> Iterator[_Needle]:
    """Yield what to search for: the secret, its lines, and its encodings."""
    value = stripped if len(stripped := value.strip()) >= MIN_SECRET_CHARS else value
    if len(value) < MIN_SECRET_CHARS:
        return
    yield _Needle(value)
    lines = [line.strip() for line in _LINE_BREAK.split(value)]
    if len(lines) > 1:
        yield from (_Needle(line) for line in lines if len(line) >= MIN_SECRET_CHARS)
    data = _encoded(value)
    yield _Needle(data.hex())
    for offset in range(3):  # the number of bytes in front of the secret, such as the user of `Basic`, modulo 3
        digits = base64.b64encode(bytes(offset) + data).decode().rstrip("=")
        shared_before, shared_after = (0, 2, 3)[offset], int((offset + len(data)) % 3 != 0)
        core = digits[shared_before : len(digits) - shared_after]
        if len(core) >= MIN_SECRET_CHARS:
            yield _Needle(core, is_base64=True, before=int(offset > 0), after=shared_after)


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")  # the environment can hold bytes that are not UTF-8
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _tokens(text: str, *, is_base64: bool) -> Iterator[str]:
    """
    Yield a pattern for each piece of a text: a run of white space, or a character with the backslashes before it.

    A piece matches in one way only, so that nothing is tried again. The exceptions are `%` and `&`, with which the
    spellings of other characters begin.
    """
    for piece in _PIECE.finditer(text):
        char = piece["next"] if piece["backslashes"] else piece.group()
        is_first = piece.start() == 0  # backslashes before the secret may remain
        count = 0 if is_first and char else len(piece["backslashes"] or "")
        if not count and char.isascii() and char.isalnum():
            yield char
            continue
        if char.isspace():
            escaped, plain = _ESCAPED_SPACE, _PLAIN_SPACE
            # In a form, `+` is a space. A form does not write `+` for a plus sign that follows.
            plain = (
                rf"(?:{plain}|\+)" if text[piece.end() : piece.end() + 1] != "+" else rf"(?:{plain}|\+(?=\+*(?:%|\Z)))"
            )
        elif char:
            escaped, plain = _spellings(char)
            if is_base64 and char in "+/":
                plain = f"(?:{plain}|{'-' if char == '+' else '_'})"
        if not char:
            yield f"(?>{_BACKSLASH}{{{count},{16 * count}}})"
        elif count:
            more = f"(?:{_BACKSLASHES}{escaped}|{plain}){{0,63}}" if char.isspace() else ""
            yield f"(?>{_BACKSLASH}{{{count},{16 * count + 16}}}(?:{escaped}|{plain}){more})"
        elif char.isspace():
            yield f"(?>(?:{_BACKSLASHES}{escaped}|{plain}){{1,64}})"
        else:
            begins_others = char in "%&"
            before = "" if is_first else f"{_BACKSLASH}{{0,16}}{'' if begins_others else '+'}"
            spellings = f"{_BACKSLASHES}{escaped}|{before}{plain}"
            # The character itself comes first, because most texts have it.
            yield f"(?:{spellings})" if begins_others else f"(?>{re.escape(char)}|{spellings})"


@lru_cache(4096)
def _spellings(char: str) -> tuple[str, str]:
    """
    Return patterns for the spellings of a character. Only this function lists them.

    Returns:
        The spellings after a backslash, and the spellings without one.
    """
    code, octets = ord(char), _encoded(char)
    names = "".join(f"|{re.escape(name.removesuffix(';'))}" for name in _ENTITIES.get(char, ()))
    entity = rf"(?:amp;){{0,4}}(?:\#0*{code}|\#x0*{code:x}{names});"  # in HTML and XML
    units = char.encode("utf-16-be", "surrogatepass")
    escaped = [  # in JSON, JavaScript, PHP, .NET and Python
        _BACKSLASHES.join(
            f"u{int.from_bytes(units[index : index + 2], 'big'):04x}" for index in range(0, len(units), 2)
        ),
        rf"u\{{0*{code:x}\}}",
        f"U{code:08x}",
        _BACKSLASHES.join(f"x{octet:02x}" for octet in octets),
        _BACKSLASHES.join(f"{octet:03o}" for octet in octets),  # also in C, Git and the shell
        *([f"x{code:02x}"] if code < 256 else []),  # noqa: PLR2004 - two digits
        f"u0026{entity}",  # HTML in JSON
        *([_LETTER_ESCAPES[char]] if char in _LETTER_ESCAPES else []),
    ]
    plain = [
        "".join(f"%(?:25){{0,4}}{octet:02x}" for octet in octets),  # URLs and forms, also encoded again
        f"&{entity}",
        *(re.escape(other) for other in {char.upper(), char.lower()} if len(other) > 1),
        re.escape(char),
    ]
    return f"(?i:{'|'.join(escaped)})", f"(?i:{'|'.join(plain)})"


@lru_cache(4096)
def _compiled(token: str, flags: re.RegexFlag) -> re.Pattern[str]:
    return re.compile(token, flags)
