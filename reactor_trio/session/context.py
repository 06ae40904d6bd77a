"""The context of a session: the settings, services and counters that all its parts share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from reactor_trio.session.observer import Counts

if TYPE_CHECKING:
    from reactor_trio.compute.executor import Executor
    from reactor_trio.contract.contract import Contract
    from reactor_trio.declare.client_info import ClientInfo
    from reactor_trio.logs.logger import Logger
    from reactor_trio.media.settings import MediaSettings
    from reactor_trio.session.limits import Limits
    from reactor_trio.session.observer import Observer
    from reactor_trio.session.upload_budget import UploadBudget


@attrs.frozen(kw_only=True, eq=False)
class SessionContext:
    """The settings and services of the host, and the client, log and counters of one session.

    `ModelHost` (`link/host.py`) makes one for each session.
    """

    client: ClientInfo
    contract: Contract
    limits: Limits
    executor: Executor
    observer: Observer
    media: MediaSettings
    upload_budget: UploadBudget
    """The budget that the uploads of all sessions share."""
    log: Logger
    """The session's logger; every line carries the session's id."""
    counts: Counts = attrs.field(factory=Counts)
    """The session's counters, to which all parts of the session add."""

    @property
    def id(self) -> str:
        """The session's id, which is the id of its first client."""
        return self.client.id
