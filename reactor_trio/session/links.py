"""The protocols through which a session sees its clients' links (`link/link.py`), and the list of its links.

A session has one client for now, and ends with this client's link. All messages of a session go through
`Links`, so that a second client, a recorder or a later socket of the same client would be one more link.
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
    """Takes the answers to the commands of one client; see `link.answers.Answers`."""

    def post(self, answer: ToClient) -> None:
        """Answer in the step that takes a message of the client; the answer is written after the step."""

    def send_nowait(self, answer: ToClient) -> None:
        """Answer from any task. Raises `trio.WouldBlock` if the outbox is full."""

    async def send(self, answer: ToClient) -> None:
        """Answer from any task; waits while the outbox is full. If cancelled, the answer was not sent."""

    def superseded(self, id_: Id | None) -> None:
        """Tell the client, as by `post`, that a later command has replaced its unhandled command."""


class LinkStatistics(Protocol):
    """Numbers of one link, for the statistics of its session."""

    @property
    def messages(self) -> int:
        """Number of messages that wait for the client."""
        ...

    @property
    def bytes(self) -> int:
        """Sum of the bytes of these messages."""
        ...

    @property
    def upload_bytes_in_memory(self) -> int:
        """Bytes of uploads in memory: small files, large files in use, and chunks not yet on the disk."""
        ...

    @property
    def upload_bytes_on_disk(self) -> int:
        """Bytes of uploads in temporary files."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether a message may still be sent."""
        ...


class Viewer(Protocol):
    """The media side of a link. The pacer calls it with each picture and each block of sound."""

    def show(self, picture: Picture, *, is_overtaken: bool) -> None:
        """Encode and send a picture that is due. `is_overtaken`: the next picture is due as well."""

    def play(self, track: str, block: AudioBlock) -> None:
        """Send a block of 20 ms of sound that is due."""

    def carry(self, track: str, seq: int, applied: tuple[Applied, ...]) -> None:
        """Note the commands that a thrown-away frame would have been the first to reflect."""

    def flush(self) -> None:
        """Throw away the pictures and the sound that wait to be sent to the client."""

    @property
    def is_idle(self) -> bool:
        """Whether every shown picture has been handed to the outbox, or replaced before."""
        ...

    @property
    def encoded(self) -> int:
        """Number of video frames encoded for this client."""
        ...


class Link(Protocol):
    """The connection to one client of a session. Implemented by `link/link.py`, called by `Links`."""

    @property
    def viewer(self) -> Viewer:
        """The media side of the link."""
        ...

    def greet(self) -> None:
        """Put the welcome, which is the first message to the client, into the outbox."""

    async def run(self) -> LinkEnding:
        """Receive and send until the connection is closed; returns why. The session cancels it at its end."""
        ...

    async def send(self, message: ToClient) -> None:
        """Send a message of the model; waits while the outbox is full. If cancelled, it was not sent."""

    def stop(self) -> None:
        """Take no more commands, because the session is ending. Messages in the outbox are still sent."""

    async def flushed(self) -> None:
        """Wait until everything in the outbox has been written."""

    async def farewell(self, ending: Ending) -> None:
        """Tell the client why the session has ended, and close. Called while `run` still runs."""

    async def close_down(self, ending: Ending, *, politely: bool) -> None:
        """Release all resources of the link, after its tasks have ended.

        `politely`: close with the ending's code. The caller shields the call, which waits for at most
        `close_timeout` seconds.
        """

    def statistics(self) -> LinkStatistics:
        """The link's numbers now."""
        ...


class Links:
    """The links of one session. Each method calls all links; see `Link`."""

    def __init__(self) -> None:
        self._links: list[Link] = []
        self.viewers: list[Viewer] = []
        """The media sides of the links, for the pacer."""

    def attach(self, link: Link) -> None:
        """Add a client's link. To be called before the session runs."""
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
        """The numbers of each link now."""
        return [link.statistics() for link in self._links]
