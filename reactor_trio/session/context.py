"""What every part of a session needs to know: one frozen value."""

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
    """The host's settings as one session sees them, and what is the session's own beside its model."""

    client: ClientInfo
    contract: Contract
    limits: Limits
    executor: Executor
    observer: Observer
    media: MediaSettings
    upload_budget: UploadBudget
    """What the uploads of all sessions may take together."""
    log: Logger
    """Every line carries the session's id."""
    counts: Counts = attrs.field(factory=Counts)
    """The session's numbers: every part of it adds to them."""

    @property
    def id(self) -> str:
        """The session's id, which is its first client's."""
        return self.client.id
