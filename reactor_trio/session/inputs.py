"""The input tracks of a session: rings of the client's frames, which the model reads by its `Input`s.

A link decodes the frames (`link/decoding.py`) and puts them into the ring. A link never waits for the model:
a model that reads too slowly loses the oldest frames.
"""

from __future__ import annotations

import operator
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import attrs
import trio

from reactor_trio.declare.inputs import InputFrame, ReadMode
from reactor_trio.errors import BufferClosed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reactor_trio.declare.tracks import Input, TrackSpec
    from reactor_trio.session.observer import Counts, InputCounts

MAX_FRAMES = 128
"""Largest number of frames that a track keeps for its readers."""


@attrs.define(eq=False)
class _Reader:
    """A call of `InputTrack.read` that waits for its frames."""

    count: int
    mode: ReadMode
    task: trio.lowlevel.Task
    result: list[InputFrame] | Exception | None = None
    """The frames or the error of the `read`; set before its task is rescheduled."""


class InputTrack:
    """One input track of a session: the newest 128 unread frames of the client. Read by the model.

    When the track is full, or holds more than the limit `max_input_bytes`, the oldest frame is dropped. If
    several tasks read, each frame goes to one of them.
    """

    def __init__(self, spec: TrackSpec, max_bytes: int, counts: InputCounts) -> None:
        self.spec = spec
        """The track's name, kind and sample rate."""
        self._max_bytes = max_bytes
        self._counts = counts
        self._frames: deque[InputFrame] = deque()
        # Bytes of each frame with its metadata, and the sum of these.
        self._sizes: deque[int] = deque()
        self._bytes = 0
        self._closed = False
        # In the order of their calls. Only the first reader is served, so a reader of many frames is not
        # overtaken for ever.
        self._readers: deque[_Reader] = deque()
        # A worker thread may call `try_read` while the loop calls `put`.
        self._lock = threading.Lock()

    @property
    def available(self) -> int:
        """Number of frames that wait to be read; 0 once the client has left."""
        return len(self._frames)

    @property
    def dropped(self) -> int:
        """Number of frames lost because reading or decoding was too slow; without those skipped by LATEST."""
        return self._counts.dropped

    def try_read(self, n: int = 1, mode: ReadMode = ReadMode.LATEST) -> list[InputFrame] | None:
        """Take `n` frames and return them oldest first; returns None, and takes none, if fewer wait.

        LATEST takes the `n` newest frames and throws older frames away; FIFO takes the `n` oldest frames and
        keeps newer ones. May be called from any thread. Takes frames even if a `read` already waits.

        Raises `BufferClosed` once the client has left, even if unread frames were left, and `ValueError` if
        `n` is not 1 to 128, or `n` frames of the present size exceed `max_input_bytes`.
        """
        count, mode = _checked(n), ReadMode(mode)
        with self._lock:
            if self._closed:
                raise self._gone()
            return self._take(count, mode)

    async def read(self, n: int = 1, mode: ReadMode = ReadMode.LATEST) -> list[InputFrame]:
        """Wait until `n` frames are there, and take them as `try_read` does. Blocks no thread.

        Tasks that wait are served in the order of their calls. From a worker thread, call
        `trio.from_thread.run(track.read)`. Raises the same errors as `try_read`. If cancelled, no frame is
        lost.
        """
        count, mode = _checked(n), ReadMode(mode)
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closed:
            await trio.lowlevel.cancel_shielded_checkpoint()  # a model that reads in a loop must not block
            raise self._gone()
        reader = _Reader(count, mode, trio.lowlevel.current_task())
        if not self._readers:
            with self._lock:
                reader.result = self._take(count, mode)
        if reader.result is None:
            await self._wait(reader)
        else:
            await trio.lowlevel.cancel_shielded_checkpoint()  # the frames are taken
        if isinstance(reader.result, Exception):
            raise reader.result
        assert reader.result is not None  # set before the task was rescheduled
        return reader.result

    async def _wait(self, reader: _Reader) -> None:
        self._readers.append(reader)

        def abort(_: Any) -> trio.lowlevel.Abort:
            # Runs in the step of the cancellation, so no frame can be given to the cancelled reader later.
            self._readers.remove(reader)
            self._serve()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def _gone(self) -> BufferClosed:
        return BufferClosed(f"input track {self.spec.name!r}: the client is gone")

    def _take(self, count: int, mode: ReadMode) -> list[InputFrame] | None:
        if len(self._frames) < count:
            self._check_fits(count)
            return None
        if mode is ReadMode.LATEST:
            while len(self._frames) > count:
                self._pop()
        return [self._pop() for _ in range(count)]

    def _pop(self) -> InputFrame:
        frame = self._frames.popleft()
        self._bytes -= self._sizes.popleft()
        return frame

    def _check_fits(self, count: int) -> None:
        """Raises `ValueError` if so many frames exceed `max_input_bytes`: the reader would wait for ever."""
        if self._sizes and count * self._sizes[-1] > self._max_bytes:
            raise ValueError(
                f"input track {self.spec.name!r}: {count} frames of {self._sizes[-1]} bytes are more "
                f"than the limit max_input_bytes, {self._max_bytes}"
            )

    def _serve(self) -> None:
        """Give the waiting readers their frames, if these are complete. Runs on the loop."""
        while self._readers:
            reader = self._readers[0]
            try:
                with self._lock:
                    result: list[InputFrame] | Exception | None = self._take(reader.count, reader.mode)
            except ValueError as error:
                result = error
            if result is None:
                return
            self._readers.popleft()
            self._wake(reader, result)

    def _wake(self, reader: _Reader, result: list[InputFrame] | Exception) -> None:
        reader.result = result
        trio.lowlevel.reschedule(reader.task)

    # ---- the session's side

    def put(self, frame: InputFrame, weight: int = 0) -> None:
        """Add the newest frame, of at most `max_input_bytes`; a full ring drops its oldest frame.

        `weight` is the memory that the frame's metadata may take, in bytes. Does nothing after `close`.
        """
        with self._lock:
            if self._closed:
                return
            self._frames.append(frame)
            self._sizes.append(frame.nbytes + weight)
            self._bytes += self._sizes[-1]
            while len(self._frames) > MAX_FRAMES or self._bytes > self._max_bytes:
                self._pop()
                self._counts.dropped += 1
        self._serve()

    def close(self) -> None:
        """Raise `BufferClosed` in all reads, and drop the unread frames. Called when the session ends."""
        with self._lock:
            self._closed = True
            self._frames.clear()
            self._sizes.clear()
            self._bytes = 0
        for reader in self._readers:
            self._wake(reader, self._gone())
        self._readers.clear()


def _checked(n: int) -> int:
    count = operator.index(n)
    if not 1 <= count <= MAX_FRAMES:
        raise ValueError(f"1 to {MAX_FRAMES} frames can be read at once, not {n}")
    return count


class SessionInputs:
    """The input tracks of one session. The session makes one, and closes it at its end."""

    def __init__(self, inputs: Mapping[str, type[Input]], *, max_bytes: int, counts: Counts) -> None:
        """`inputs` are the model's `Input` classes, by attribute; `max_bytes` is the limit of each track."""
        self.tracks: dict[str, InputTrack] = {
            spec.name: InputTrack(spec, max_bytes, counts.inputs[spec.name])
            for input_class in inputs.values()
            for spec in input_class.__tracks__
        }
        """The tracks by name."""
        self.bound = {attribute: self._bind(input_class) for attribute, input_class in inputs.items()}
        """The `Input`s by attribute of the model: the values of these attributes in this session."""

    def _bind(self, input_class: type[Input]) -> Input:
        # Without a call of the class, since calling an `Input` class raises an error for authors.
        bound: Input = object.__new__(input_class)
        for spec in input_class.__tracks__:
            object.__setattr__(bound, spec.name, self.tracks[spec.name])
        return bound

    def close(self) -> None:
        """Close all tracks. Called when the session ends."""
        for track in self.tracks.values():
            track.close()
