"""How much may happen in a time: a token bucket, on a clock that is handed in."""

from __future__ import annotations

_ROUNDING = 1e-9
"""Tokens that may be missing, or a client that waits for exactly as long as it was told comes too early."""


class TokenBucket:
    """Fills with `rate` tokens a second up to `burst`. Times are in seconds of any one clock.

    Within any `t` seconds `take` lets at most `burst + rate * t` pass.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float, amount: float = 1.0) -> float:
        """Take `amount`, at most `burst`, and return 0; else return the seconds until there is enough."""
        self._fill(now)
        missing = amount - self._tokens
        if missing > _ROUNDING:
            return missing / self._rate
        self._tokens -= amount
        return 0.0

    def spend(self, now: float, amount: float) -> None:
        """Take so many in any case; what is missing is a debt."""
        self._fill(now)
        self._tokens -= amount

    @property
    def owes(self) -> bool:
        """Whether there was a debt when something was last taken: a look that needs no clock."""
        return self._tokens < 0

    def debt(self, now: float) -> float:
        """Seconds until the debt is paid."""
        self._fill(now)
        return max(0.0, -self._tokens / self._rate)

    def give_back(self, amount: float = 1.0) -> None:
        """Undo a `take`."""
        self._tokens = min(self._burst, self._tokens + amount)

    def _fill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + self._rate * (now - self._at))
        self._at = now
