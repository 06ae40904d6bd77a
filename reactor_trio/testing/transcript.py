"""The transcript of a test: each message that crossed the wire, with its virtual time.

A transcript can be read, compared with another one, and kept as a golden file."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

import attrs

from reactor_trio.testing.message_text import body_of, type_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

UPDATE_VARIABLE = "REACTOR_UPDATE_GOLDEN"
"""The environment variable that lets `assert_matches` write golden files; empty or `0` counts as unset."""


@attrs.frozen
class TranscriptEntry:
    """One message on the wire, with the virtual time at which the session read or wrote it."""

    time: float
    """Seconds since the session began."""
    direction: str
    """`>` to the server, `<` to the client."""
    message: str | bytes

    @property
    def type(self) -> str:
        """The message's type on the wire; `media` or `chunk` for a binary one, else `unreadable`."""
        return type_of(self.message)

    def line(self, *, times: bool = True, hashes: bool = False) -> str:
        """Return the message as one line of text; see `Transcript.render`."""
        time = f"{self.time:11.6f} " if times else ""
        return f"{time}{self.direction} {body_of(self.message, hashes=hashes)}"


@attrs.frozen
class Transcript(Sequence[TranscriptEntry]):
    """All messages of both directions, in the session's order. `str(transcript)` is their text."""

    entries: list[TranscriptEntry] = attrs.field(factory=list, repr=False)

    @overload
    def __getitem__(self, index: int) -> TranscriptEntry: ...
    @overload
    def __getitem__(self, index: slice) -> Transcript: ...
    def __getitem__(self, index: int | slice) -> TranscriptEntry | Transcript:
        """Return one entry by its index, or a transcript of the entries of a slice."""
        return Transcript(self.entries[index]) if isinstance(index, slice) else self.entries[index]

    def __len__(self) -> int:
        return len(self.entries)

    def __str__(self) -> str:
        return self.render()

    def where(self, condition: Callable[[TranscriptEntry], bool]) -> Transcript:
        """Keep those for which this is true: `transcript.where(lambda entry: entry.direction == "<")`."""
        return Transcript([entry for entry in self.entries if condition(entry)])

    def of_type(self, *types: str) -> Transcript:
        """Keep the entries of these types, such as `set_prompt`, `reactor.ack` or `media`."""
        return self.where(lambda entry: entry.type in types)

    def without(self, *types: str) -> Transcript:
        """Leave out the entries of these types."""
        return self.where(lambda entry: entry.type not in types)

    def render(self, *, times: bool = True, hashes: bool = False) -> str:
        """Return the text: one line for each message, with its time, direction, type, id and data.

        A frame reads `media main_video seq=3 pts=0.125 jpeg 640x480`. Its bytes are left out, since another
        version of the encoder makes other ones; with `hashes` the line has the payload's length and the
        first digits of its SHA-256. Of the welcome only names are shown, and no schemas. Without `times` the
        lines have no times.
        """
        return "".join(f"{entry.line(times=times, hashes=hashes)}\n" for entry in self.entries)

    def diff(self, other: Transcript | str, *, times: bool = True, hashes: bool = False) -> str:
        """Return the difference from `other`, a transcript or its text; empty if the texts are equal."""
        before = other if isinstance(other, str) else other.render(times=times, hashes=hashes)
        return _diff(before, self.render(times=times, hashes=hashes), "expected", "actual")

    def assert_matches(
        self, golden: str | os.PathLike[str], *, times: bool = True, hashes: bool = False
    ) -> None:
        """Compare with a golden file, line by line; `times` and `hashes` are those of `render`.

        With REACTOR_UPDATE_GOLDEN=1 in the environment the file and its folder are written instead: look
        at the change before you keep it. Raises `AssertionError` with the difference, or if there is no
        such file. The file is UTF-8, with line ends of any kind.
        """
        path = Path(golden)
        text = self.render(times=times, hashes=hashes)
        if os.environ.get(UPDATE_VARIABLE, "0") not in ("", "0"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
            return
        how = f"run the test with {UPDATE_VARIABLE}=1 to write it"
        if not path.exists():
            raise AssertionError(f"there is no golden file {path}: {how}. It would be:\n{text}")
        difference = _diff(path.read_text(encoding="utf-8"), text, str(path), "this run")
        if difference:
            raise AssertionError(
                f"the transcript is not that of {path}; if it should be, {how}\n{difference}"
            )


def _diff(before: str, after: str, name_before: str, name_after: str) -> str:
    lines: Iterable[str] = difflib.unified_diff(
        _lines(before), _lines(after), name_before, name_after, lineterm=""
    )
    return "".join(f"{line}\n" for line in lines)


def _lines(text: str) -> list[str]:
    # `str.splitlines` would also split at characters that JSON leaves as they are, such as U+2028.
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []


def recorder(
    transcript: Transcript, direction: str, now: Callable[[], float]
) -> Callable[[str | bytes], object]:
    """Return a function that adds a message to the transcript, at the time `now()`."""

    def record(message: str | bytes) -> None:
        transcript.entries.append(TranscriptEntry(now(), direction, message))

    return record
