"""`Connected`: the class of `self.connected`, which a model waits for."""

from __future__ import annotations

import trio


class Connected:
    """Set once `@connected` has finished, cleared as soon as the client is gone or the session ends."""

    def __init__(self) -> None:
        # The dispatcher sets the event; `wait` waits for it; `end` replaces it, as no event can be unset.
        self._event = trio.Event()
        self._has_ended = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'set' if self.is_set() else 'cleared'}>"

    def is_set(self) -> bool:
        """Whether the client is there now."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Wait until the client is there. If cancelled, nothing has changed."""
        await self._event.wait()

    def set(self) -> None:
        """Tell the model that the client is there. For the runtime.

        Does nothing after `end`: `@connected` may still be running when the client is gone.
        """
        if not self._has_ended:
            self._event.set()

    def end(self) -> None:
        """Tell the model that the client is gone; it does not come back. For the runtime."""
        self._has_ended = True
        if self._event.is_set():
            self._event = trio.Event()
