"""`ModelHost`: the loaded model, and the objects that all of its sessions share."""

from __future__ import annotations

import inspect
import secrets
from typing import TYPE_CHECKING, Any

import attrs
import trio

from reactor_trio.compute.executor import Executor, ThreadExecutor
from reactor_trio.compute.lanes import FILES
from reactor_trio.contract.contract import Contract, read_contract
from reactor_trio.contract.lifecycle import wrong_setting
from reactor_trio.declare.client_info import ClientInfo
from reactor_trio.errors import BadModelSetting
from reactor_trio.link.link import Link
from reactor_trio.logs.logger import get_logger
from reactor_trio.media.settings import MediaSettings
from reactor_trio.session.context import SessionContext
from reactor_trio.session.limits import Limits
from reactor_trio.session.observer import NoObserver, Observer
from reactor_trio.session.session import Session
from reactor_trio.session.upload_budget import UploadBudget

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reactor_trio.declare.identity import Identity
    from reactor_trio.model.model import ReactorModel
    from reactor_trio.wire.transport import Transport


watchers: list[Callable[[Session], object]] = []
"""Called with each new session, so that `reactor_trio.testing` finds leaks of a session."""


def random_session_id() -> str:
    """A new session id: 16 hexadecimal digits that cannot be guessed."""
    return secrets.token_hex(8)


@attrs.frozen(kw_only=True, eq=False)
class ModelHost:
    """One loaded prototype of a model, and the maker of its sessions.

    A server, or a test, calls `load` once, and then `session` for each client. Each session runs a copy of
    the prototype.
    """

    prototype: ReactorModel
    contract: Contract
    limits: Limits
    executor: Executor
    session_id: Callable[[], str]
    observer: Observer = attrs.field(factory=NoObserver)
    media: MediaSettings = attrs.field(factory=MediaSettings)
    upload_budget: UploadBudget
    """Counts the memory and the disk that the uploads of all sessions take."""

    @classmethod
    async def load(
        cls,
        model_class: type[ReactorModel],
        config: dict[str, Any] | None = None,
        *,
        name: str | None = None,
        limits: Limits | None = None,
        executor: Executor | None = None,
        session_id: Callable[[], str] = random_session_id,
        observer: Observer | None = None,
        media: MediaSettings | None = None,
    ) -> ModelHost:
        """Make the prototype and call its `load`, in a worker thread if `load` is a plain `def`.

        Raises `TypeError` for a mistake in the model's declarations, `BadModelSetting` if `load` has set an
        `fps` or `buffer_size` that cannot be used, and every exception that `load` raises. If cancelled, it
        waits until a `load` in a thread has ended.
        """
        contract = read_contract(model_class, name)
        executor = executor or ThreadExecutor()
        prototype = model_class()
        prototype._reactor_executor = executor
        config = {} if config is None else config
        if inspect.iscoroutinefunction(prototype.load):
            await prototype.load(config)
        else:
            result = await executor.run(FILES, prototype.load, config)
            if inspect.isawaitable(result):
                await result
        settings = {"fps": prototype.fps, "buffer_size": prototype.buffer_size}
        wrong = wrong_setting(model_class, settings)
        if wrong is not None:
            raise BadModelSetting(wrong)
        observer = observer or NoObserver()
        observer.model_loaded(contract)
        limits = limits or Limits()
        return cls(
            prototype=prototype,
            contract=contract,
            limits=limits,
            executor=executor,
            session_id=session_id,
            observer=observer,
            media=media or MediaSettings(),
            upload_budget=UploadBudget(
                max_memory_bytes=limits.max_total_upload_bytes,
                max_disk_bytes=limits.max_total_spool_bytes,
            ),
        )

    def session(
        self,
        transport: Transport,
        *,
        address: str = "",
        identity: Identity | None = None,
        early: Sequence[str | bytes] = (),
    ) -> Session:
        """Make a session for one client. The session does nothing until its `run` is called.

        `early` are the client's first messages, if some have been received already.
        """
        client = ClientInfo(
            id=self.session_id(), joined_at=trio.current_time(), address=address, identity=identity
        )
        context = SessionContext(
            client=client,
            contract=self.contract,
            limits=self.limits,
            executor=self.executor,
            observer=self.observer,
            media=self.media,
            upload_budget=self.upload_budget,
            log=get_logger(__name__, session_id=client.id),
        )
        session = Session(context, self.prototype)
        session.links.attach(Link(session, transport, early))
        for watch in watchers:
            watch(session)
        return session
