"""Counts wrong tokens by address, and says how much later the next wrong one is answered. No I/O.

`server.reception` calls `Guesses.wrong` for each request that it refuses because of its token. A request with
the right token is never delayed, and a request without a token does not count.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import attrs

FREE: Final = 3
"""Wrong tokens of an address that are answered without a pause."""
PAUSE: Final = 1.0
"""Seconds of pause before the answer to each further one."""
MOST: Final = 20
"""Wrong tokens of an address that are answered 401; further ones are answered 429."""
FORGOTTEN_AFTER: Final = 300.0
"""Seconds without a wrong token after which the count of an address begins at 0 again."""
LOGGED_EVERY: Final = 60.0
"""Least seconds between two lines of the log for one address."""
MAX_ADDRESSES: Final = 4096
"""Addresses whose counts are kept: the ones whose last wrong token is most recent."""


@attrs.define
class _Guesser:
    count: int = 0
    last: float = 0.0
    logged: float = float("-inf")


@attrs.frozen
class Guess:
    """How to answer one wrong token."""

    count: int
    """Wrong tokens of this address so far, this one included."""
    pause: float
    """Seconds to wait before the answer."""
    is_one_too_many: bool
    """Whether the answer is 429."""
    is_logged: bool
    """Whether to write a line to the log."""


class Guesses:
    """The counts of wrong tokens by address (`server.address.network_of`)."""

    def __init__(self) -> None:
        self._guessers: OrderedDict[str, _Guesser] = OrderedDict()

    def __len__(self) -> int:
        return len(self._guessers)

    def wrong(self, address: str, now: float) -> Guess:
        """Count a wrong token; `now` is in seconds, of the same clock at each call."""
        guesser = self._guessers.pop(address, None)
        if guesser is None or now - guesser.last > FORGOTTEN_AFTER:
            guesser = _Guesser()
        self._guessers[address] = guesser  # at the end: the order is that of the last wrong token
        if len(self._guessers) > MAX_ADDRESSES:
            self._guessers.popitem(last=False)
        guesser.count += 1
        guesser.last = now
        is_logged = now - guesser.logged >= LOGGED_EVERY
        if is_logged:
            guesser.logged = now
        pause = PAUSE if guesser.count > FREE else 0.0
        return Guess(guesser.count, pause, guesser.count > MOST, is_logged)
