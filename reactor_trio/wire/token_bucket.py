"""A token bucket: it bounds how often something may happen, on a clock that its user reads.

It is pure and knows nothing of a network. It stands in this room since the reader of a WebSocket is the
lowest of its users; the others are the rates of a link.
"""

from __future__ import annotations

_ROUNDING = 1e-9
"""Tokens that may be missing: a client that waits exactly as long as it was told is not too early."""


class TokenBucket:
    """A bucket that fills with `rate` tokens a second up to `burst`. Times are in seconds of any one clock.

    Within any `t` seconds `take` hands out at most `burst + rate * t` tokens.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float, amount: float = 1.0) -> float:
        """Take `amount` tokens (at most `burst`) and return 0.

        If there are not enough, take none and return the seconds until there are.
        """
        self._fill(now)
        missing = amount - self._tokens
        if missing > _ROUNDING:
            return missing / self._rate
        self._tokens -= amount
        return 0.0

    def spend(self, now: float, amount: float) -> None:
        """Take `amount` tokens even if there are not enough: the missing ones are a debt."""
        self._fill(now)
        self._tokens -= amount

    @property
    def owes(self) -> bool:
        """Whether there was a debt when tokens were last taken. It needs no look at the clock."""
        return self._tokens < 0

    def debt(self, now: float) -> float:
        """Seconds until the debt is paid."""
        self._fill(now)
        return max(0.0, -self._tokens / self._rate)

    def give_back(self, amount: float = 1.0) -> None:
        """Put back the tokens of a `take`."""
        self._tokens = min(self._burst, self._tokens + amount)

    def _fill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + self._rate * (now - self._at))
        self._at = now
