"""Wrong tokens: who guesses is slowed down, and the log has a line of it now and then. No I/O.

The right token is let in at once, wherever it comes from, and no request without a token counts.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import attrs

FREE: Final = 3
"""Wrong tokens that an address may show before its answers come later."""
PAUSE: Final = 1.0
"""Seconds by which they then do."""
MOST: Final = 20
"""Wrong tokens from which on the answer is 429."""
FORGOTTEN_AFTER: Final = 300.0
"""Seconds after which an address that has shown no wrong token begins anew."""
LOGGED_EVERY: Final = 60.0
"""Seconds between two lines of one address in the log."""
MAX_ADDRESSES: Final = 4096
"""Addresses that are remembered: of more, those that guessed last."""


@attrs.define
class _Guesser:
    count: int = 0
    last: float = 0.0
    logged: float = float("-inf")


@attrs.frozen
class Guess:
    """What one wrong token leads to."""

    count: int
    """How many it was, of its address."""
    pause: float
    """Seconds by which the answer comes later."""
    is_one_too_many: bool
    """Whether the answer is 429."""
    is_logged: bool


class Guesses:
    """The wrong tokens of the last minutes, by address."""

    def __init__(self) -> None:
        self._guessers: OrderedDict[str, _Guesser] = OrderedDict()

    def __len__(self) -> int:
        return len(self._guessers)

    def wrong(self, address: str, now: float) -> Guess:
        """Note a wrong token; `now` is in seconds of any one clock."""
        guesser = self._guessers.pop(address, None)
        if guesser is None or now - guesser.last > FORGOTTEN_AFTER:
            guesser = _Guesser()
        self._guessers[address] = guesser  # at the end: it guessed last
        if len(self._guessers) > MAX_ADDRESSES:
            self._guessers.popitem(last=False)
        guesser.count += 1
        guesser.last = now
        is_logged = now - guesser.logged >= LOGGED_EVERY
        if is_logged:
            guesser.logged = now
        pause = PAUSE if guesser.count > FREE else 0.0
        return Guess(guesser.count, pause, guesser.count > MOST, is_logged)
