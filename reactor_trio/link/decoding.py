"""Decodes the client's media frames in threads, and puts them into the session's input tracks.

The receive task never waits for a decoder: if frames come faster than they are decoded, the oldest frames
are dropped.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import trio

from reactor_trio.compute.lanes import DECODE
from reactor_trio.contract.faults import listed
from reactor_trio.declare.inputs import InputFrame
from reactor_trio.errors import ProtocolError
from reactor_trio.media.decoding import check_frame, decode_frame
from reactor_trio.protocol.names import BAD_MESSAGE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from reactor_trio.protocol.binary import MediaFrame
    from reactor_trio.session.context import SessionContext
    from reactor_trio.session.inputs import InputTrack, SessionInputs

UNDECODED: Mapping[str, int] = {"video": 4, "audio": 64}
"""Frames that wait for the decoder, by kind: an eighth of a second of video, a second of audio."""
IMMEDIATE_BYTES = 1024 * 1024
"""Bytes up to which a frame that is only copied is decoded on the loop: it takes 0.1 ms."""


def _undecoded_size(frame: MediaFrame) -> int:
    return len(frame.payload) + frame.weight


class Decoder:
    """Decodes the frames of one input track, one after the other, in order.

    The receive task hands frames in by `put`; `run` is the track's task. All decoders of a link share `turn`,
    so that a session has one call at most in the executor's lane, and the frames of one client delay those
    of other clients by one frame at a time.
    """

    def __init__(self, track: InputTrack, context: SessionContext, turn: trio.Semaphore) -> None:
        self._track = track
        self._executor = context.executor
        self._turn = turn
        self._max_bytes = context.limits.max_input_bytes
        self._counts = context.counts.inputs[track.spec.name]
        self._waiting: deque[MediaFrame] = deque()
        # Bytes of the waiting frames, their metadata included.
        self._waiting_bytes = 0
        self._busy = False
        # Set by `put`; `run` waits for it while no frame waits.
        self._wake = trio.Event()

    def put(self, frame: MediaFrame) -> bool:
        """Take a frame: decode it at once if that is no work, else queue it, and drop older ones if need be.

        Returns whether the frame has been decoded. Raises `ProtocolError` if it does not fit the track.
        """
        try:
            check_frame(frame, self._track.spec, self._max_bytes)
        except ValueError as error:
            raise _refusal(frame, error) from None
        self._counts.received += 1
        if self._is_immediate(frame):
            self._deliver(frame, decode_frame(frame, self._max_bytes))
            return True
        size = _undecoded_size(frame)
        too_many, room = UNDECODED[self._track.spec.kind], self._max_bytes - size
        while self._waiting and (len(self._waiting) >= too_many or self._waiting_bytes > room):
            self._next()
            self._counts.dropped += 1
        self._waiting.append(frame)
        self._waiting_bytes += size
        self._wake.set()
        return False

    def _next(self) -> MediaFrame:
        frame = self._waiting.popleft()
        self._waiting_bytes -= _undecoded_size(frame)
        return frame

    def _is_immediate(self, frame: MediaFrame) -> bool:
        is_short = frame.codec != "jpeg" and len(frame.payload) <= IMMEDIATE_BYTES
        return is_short and not self._waiting and not self._busy

    async def run(
        self, accepted: Callable[[], object], refuse: Callable[[ProtocolError], Awaitable[object]]
    ) -> None:
        """The decoding task of this track. Runs until it is cancelled, and does not wait for its thread then.

        `accepted` is called after each decoded frame, and `refuse` is awaited for each that is broken.
        """
        while True:
            while not self._waiting:
                self._wake = trio.Event()
                await self._wake.wait()
            self._busy = True
            failure: ProtocolError | None = None
            async with self._turn:
                frame = self._next()  # the oldest frame: others may have been dropped during the wait
                try:
                    values = await self._executor.run(DECODE, decode_frame, frame, self._max_bytes)
                except ValueError as error:
                    failure = _refusal(frame, error)
                else:
                    self._deliver(frame, values)
                    accepted()
            if failure is not None:
                await refuse(failure)
            self._busy = False

    def _deliver(self, frame: MediaFrame, values: Any) -> None:
        metadata = frame.extra.get("metadata")
        self._track.put(InputFrame(values, pts=frame.pts, seq=frame.seq, metadata=metadata), frame.weight)


class Decoders:
    """The decoders of one link, one for each input track of the model; the receive task calls `put`."""

    def __init__(self, context: SessionContext, inputs: SessionInputs) -> None:
        self._tracks = context.contract.tracks
        turn = trio.Semaphore(1)
        self._decoders = {name: Decoder(track, context, turn) for name, track in inputs.tracks.items()}

    def start(
        self,
        nursery: trio.Nursery,
        name: str,
        accepted: Callable[[], object],
        refuse: Callable[[ProtocolError], Awaitable[object]],
    ) -> None:
        """Start `Decoder.run` of each track in the nursery; `name` begins the names of the tasks."""
        for track, decoder in self._decoders.items():
            nursery.start_soon(decoder.run, accepted, refuse, name=f"{name}/decode {track}")

    def put(self, frame: MediaFrame) -> bool:
        """Take a frame from the client; returns whether the frame has been decoded already.

        Raises `ProtocolError`, naming the track, if the model has no such input or the frame does not fit it.
        """
        decoder = self._decoders.get(frame.track)
        if decoder is None:
            raise ProtocolError(BAD_MESSAGE, self._unknown(frame.track))
        return decoder.put(frame)

    def _unknown(self, name: str) -> str:
        has = f"it has: {listed(list(self._decoders))}" if self._decoders else "it has none"
        if any(track.name == name and track.direction == "out" for track in self._tracks):
            return f"track {name!r} is an output of this model, not an input track; {has}"
        return f"this model has no input track {name!r}; {has}"


def _refusal(frame: MediaFrame, error: ValueError) -> ProtocolError:
    return ProtocolError(BAD_MESSAGE, f"track {frame.track!r}, frame {frame.seq}: {error}")
