"""What a session knows of its clients: each is a link (`link/link.py`), and comes and goes.

A session has one client for now, so the first link's end is its own. All that a session says goes through
`Links`, so that a second client, a recorder or a later socket of the same client is one more link.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import trio

    from reactor_trio.protocol.server_messages import ToClient
    from reactor_trio.protocol.text import Id
    from reactor_trio.session.applied import Applied
    from reactor_trio.session.audio_timeline import AudioBlock
    from reactor_trio.session.endings import Ending, LinkEnding
    from reactor_trio.session.output_steps import Picture


class Reply(Protocol):
    """Where the answers to a client's commands go."""

    def post(self, answer: ToClient) -> None:
        """Answer in the step in which a message of the client is being taken; it leaves when that ends."""

    def send_nowait(self, answer: ToClient) -> None:
        """Answer from any task. Raises `trio.WouldBlock` if the client is behind."""

    async def send(self, answer: ToClient) -> None:
        """Answer from any task; waits while the client is behind. If cancelled, nothing was sent."""

    def superseded(self, id_: Id | None) -> None:
        """Tell the client that a later command has replaced its command before its turn came; as `post`."""


class LinkStatistics(Protocol):
    """Numbers of one link."""

    @property
    def messages(self) -> int:
        """Messages that wait for the client."""
        ...

    @property
    def bytes(self) -> int:
        """Bytes of these messages."""
        ...

    @property
    def upload_bytes_in_memory(self) -> int:
        """Of uploads: small files, large ones in use, and bytes that are not on the disk yet."""
        ...

    @property
    def upload_bytes_on_disk(self) -> int:
        """Of uploads in temporary files."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether a message may still be sent."""
        ...


class Viewer(Protocol):
    """The media side of a link: what the pacer shows a client."""

    def show(self, picture: Picture, *, is_overtaken: bool) -> None:
        """Encode and send a picture that is due. One that `is_overtaken` has another one right behind it."""

    def play(self, track: str, block: AudioBlock) -> None:
        """Send 20 ms of sound that are due."""

    def carry(self, track: str, seq: int, applied: tuple[Applied, ...]) -> None:
        """Note what a frame would have been the first to reflect that was thrown away before it was due."""

    def flush(self) -> None:
        """Throw away the pictures and the sound that wait for the client."""

    @property
    def is_idle(self) -> bool:
        """Whether every picture that was shown has been handed to the outbox, or replaced before that."""
        ...

    @property
    def encoded(self) -> int:
        """Frames of video that were encoded for this client."""
        ...


class Link(Protocol):
    """One client of a session, as the session sees it."""

    @property
    def viewer(self) -> Viewer:
        """The media side."""
        ...

    def greet(self) -> None:
        """Put the welcome, the first message of all, into the outbox."""

    async def run(self) -> LinkEnding:
        """Receive and send until the connection is closed. Cancelled when the session has said farewell."""
        ...

    async def send(self, message: ToClient) -> None:
        """Send a message of the model; waits while the client is behind. If cancelled, it was not sent."""

    def stop(self) -> None:
        """Take no command any more, because the session is ending; what is on its way out goes on."""

    async def flushed(self) -> None:
        """Wait until everything in the outbox has been written."""

    async def farewell(self, ending: Ending) -> None:
        """Say why the session has ended, and close; receive and send still run."""

    async def close_down(self, ending: Ending, *, politely: bool) -> None:
        """Give everything back when no task runs any more. `politely`: close with the ending's code.

        To be shielded: it waits for `close_timeout` at most.
        """

    def statistics(self) -> LinkStatistics:
        """The numbers now."""
        ...


class Links:
    """The links of one session. Whatever the session says, all of them hear."""

    def __init__(self) -> None:
        self._links: list[Link] = []
        self.viewers: list[Viewer] = []
        """The media side of each, for the pacer."""

    def attach(self, link: Link) -> None:
        """Add a client; before the session runs."""
        self._links.append(link)
        self.viewers.append(link.viewer)

    def start(self, nursery: trio.Nursery, name: str) -> None:
        """Greet each client, and run its link in the nursery."""
        for link in self._links:
            link.greet()
            nursery.start_soon(link.run, name=f"{name}/link")

    async def send(self, message: ToClient) -> None:
        """See `Link.send`."""
        for link in self._links:
            await link.send(message)

    def stop(self) -> None:
        """See `Link.stop`."""
        for link in self._links:
            link.stop()

    async def flushed(self) -> None:
        """See `Link.flushed`."""
        for link in self._links:
            await link.flushed()

    async def farewell(self, ending: Ending) -> None:
        """See `Link.farewell`."""
        for link in self._links:
            await link.farewell(ending)

    async def close_down(self, ending: Ending, *, politely: bool) -> None:
        """See `Link.close_down`."""
        for link in self._links:
            await link.close_down(ending, politely=politely)

    def statistics(self) -> list[LinkStatistics]:
        """The numbers of each now."""
        return [link.statistics() for link in self._links]
