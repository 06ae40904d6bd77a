"""Decides about each request: an answer, or a place among the sessions. It reads and writes no bytes.

`server.connections` asks it for each request head that was read from a socket. See docs/design.md#http and
docs/design.md#safe-defaults.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from reactor_trio.logs.logger import get_logger
from reactor_trio.server.address import network_of
from reactor_trio.server.auth import Refused, auth_request, identify, offered_token
from reactor_trio.server.guesses import FORGOTTEN_AFTER, Guesses
from reactor_trio.server.http import RETRY_SECONDS, Response, Upgrade, too_many, unavailable
from reactor_trio.server.routes import NO_ROUTE, answer, is_guarded
from reactor_trio.server.sessions import Granted

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from reactor_trio.declare.identity import Identity
    from reactor_trio.server.admission import Admission
    from reactor_trio.server.gate import Limit
    from reactor_trio.server.http import Request
    from reactor_trio.server.routes import State
    from reactor_trio.server.settings import ServerSettings
    from reactor_trio.server.web_folder import WebFolder

ALWAYS_ANSWERED = ("/health", "/metrics")
"""Paths that are answered also where no more connections are taken."""
MAX_LOGGED = 200
"""Characters of a header in the log."""

TOO_MANY = unavailable("there are too many connections")

log = get_logger(__name__)


class Reception:
    """Decides about requests.

    `refused` counts the refused clients, `state` is asked at each request, `folder` has the author's page.
    """

    def __init__(
        self,
        settings: ServerSettings,
        admission: Admission,
        *,
        refused: Counter[Limit],
        state: Callable[[], State],
        folder: WebFolder | None = None,
    ) -> None:
        self._policy = settings.policy
        self._authenticate = settings.authenticator
        self._admission = admission
        self._refused = refused
        self._state = state
        self._folder = folder
        self._guesses = Guesses()

    async def receive(
        self, request: Request, *, deadline: float, is_reserved: bool = False
    ) -> Response | Granted:
        """The answer to a request, or a place, which the caller must give up (`Sessions.serve` does).

        The caller must have filled in the request's `arrival`. `deadline` (seconds of Trio's clock)
        ends `authenticate`, and the pause before a wrong token is answered. With `is_reserved` only the paths
        `ALWAYS_ANSWERED` are answered. Errors of `authenticate` are logged and answered, never raised. If
        cancelled, no place is taken. A checkpoint only if `authenticate` is one, the token is wrong, or the
        path may be one of the author's page.
        """
        address = request.arrival.address
        log.debug("request", method=request.method, path=request.path, address=address)
        if is_reserved and request.path not in ALWAYS_ANSWERED:
            return TOO_MANY
        identity: Identity | Refused | None = None
        if self._authenticate is not None and is_guarded(request):
            identity = await identify(self._authenticate, auth_request(request, address), deadline=deadline)
        if isinstance(identity, Refused):
            until = trio.current_time() if is_reserved else deadline
            return await self._refusal(request, identity.response, until)
        found = self._answer(request)
        if isinstance(found, Upgrade):
            # No checkpoint since the state was asked, so there is room.
            return Granted(found, self._admission.enter(network_of(address)), address, identity)
        self._log_refused_page(request, found.status)
        if found is NO_ROUTE and self._folder is not None:
            return await self._folder.answer(request)
        return found

    def _answer(self, request: Request) -> Response | Upgrade:
        """The answer to the request of an authenticated client."""
        found = answer(request, self._policy, self._state())
        if isinstance(found, Upgrade) and not self._admission.admits(network_of(request.arrival.address)):
            self._refused["address"] += 1
            return too_many("this address has all the sessions that it may have", RETRY_SECONDS)
        return found

    async def _refusal(self, request: Request, response: Response, deadline: float) -> Response:
        """The answer to a client that is refused; after a pause if its address has sent many wrong tokens."""
        if response.status != 401 or offered_token(request) is None:
            return response
        self._refused["token"] += 1
        address = request.arrival.address
        guess = self._guesses.wrong(network_of(address) or address, trio.current_time())
        if guess.is_logged:
            log.warning("wrong token", address=address, times=guess.count)
        with trio.move_on_at(deadline):
            await trio.sleep(guess.pause)
        return too_many("too many wrong tokens", FORGOTTEN_AFTER) if guess.is_one_too_many else response

    def _log_refused_page(self, request: Request, status: int) -> None:
        # A browser hides the reason from its page, so the operator is told.
        address = request.arrival.address
        if status == 403:
            origin = ", ".join(request.all("origin"))[:MAX_LOGGED]
            host = request.host[:MAX_LOGGED]
            log.info("page refused", origin=origin, host=host, remedy="--allow-origin", address=address)
        elif status == 421:
            self._refused["host"] += 1
            host = request.host[:MAX_LOGGED]
            log.info("page refused", host=host, remedy="--allow-host", address=address)
