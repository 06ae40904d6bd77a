"""Frames of the client in a ring, until the model reads them by `self.input`.

A link decodes them (`link/decoding.py`) and puts them in. Nothing here ever waits for the model: a model that
is behind loses the oldest frames.
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
"""Frames that a track keeps for its readers."""


@attrs.define(eq=False)
class _Reader:
    """A `read` that waits for its frames."""

    count: int
    mode: ReadMode
    task: trio.lowlevel.Task
    result: list[InputFrame] | Exception | None = None
    """Set before the task is rescheduled."""


class InputTrack:
    """One input track of a session: the newest 128 frames of the client that were not read yet.

    When it is full, or holds more than the limit `max_input_bytes`, the oldest frame is dropped. Where
    several tasks read, each frame goes to one of them.
    """

    def __init__(self, spec: TrackSpec, max_bytes: int, counts: InputCounts) -> None:
        self.spec = spec
        """Name, kind and sample rate."""
        self._max_bytes = max_bytes
        self._counts = counts
        self._frames: deque[InputFrame] = deque()
        # Of each of them with its metadata, and all together.
        self._sizes: deque[int] = deque()
        self._bytes = 0
        self._closed = False
        # In order of their calls. Only the first one is served, so a reader of many frames gets its turn.
        self._readers: deque[_Reader] = deque()
        # `try_read` may be called from a worker thread, while the loop puts frames in.
        self._lock = threading.Lock()

    @property
    def available(self) -> int:
        """Frames that wait to be read; 0 once the client is gone."""
        return len(self._frames)

    @property
    def dropped(self) -> int:
        """Frames that were lost because nobody read, or decoded, fast enough; not what LATEST skipped."""
        return self._counts.dropped

    def try_read(self, n: int = 1, mode: ReadMode = ReadMode.LATEST) -> list[InputFrame] | None:
        """Take `n` frames, oldest first, or None, and nothing is taken, if fewer are there.

        LATEST gives the `n` newest, and throws older ones away; FIFO the `n` oldest, and newer ones stay. It
        may be called from any thread, and does not ask whether a `read` waits already.

        Raises `BufferClosed` once the client is gone, also for frames that nobody has read, and `ValueError`
        if `n` is not 1 to 128, or so many frames of this size are more than `max_input_bytes`.
        """
        count, mode = _checked(n), ReadMode(mode)
        with self._lock:
            if self._closed:
                raise self._gone()
            return self._take(count, mode)

    async def read(self, n: int = 1, mode: ReadMode = ReadMode.LATEST) -> list[InputFrame]:
        """Wait until there are `n` frames, and take them as `try_read` does. Holds no thread meanwhile.

        Where several tasks wait they are served in the order of their calls. From a worker thread, call
        `trio.from_thread.run(track.read)`. Raises as `try_read`. If cancelled, no frame is lost.
        """
        count, mode = _checked(n), ReadMode(mode)
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closed:
            await trio.lowlevel.cancel_shielded_checkpoint()  # so that one who tries for ever does not spin
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
        assert reader.result is not None  # since it was rescheduled
        return reader.result

    async def _wait(self, reader: _Reader) -> None:
        self._readers.append(reader)

        def abort(_: Any) -> trio.lowlevel.Abort:
            # In the very step of the cancellation: from here on nobody gives it a frame that it would lose.
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
        """Who waits for more than the ring can hold would wait for ever."""
        if self._sizes and count * self._sizes[-1] > self._max_bytes:
            raise ValueError(
                f"input track {self.spec.name!r}: {count} frames of {self._sizes[-1]} bytes are more "
                f"than the limit max_input_bytes, {self._max_bytes}"
            )

    def _serve(self) -> None:
        """Give waiting readers what there is for them. On the loop."""
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
        """Add the newest frame, of at most `max_input_bytes`; a full ring drops its oldest.

        `weight` is what its metadata may take, in bytes.
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
        """The client is gone: readers are told, and what was not read is thrown away."""
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
    """The input tracks of one session."""

    def __init__(self, inputs: Mapping[str, type[Input]], *, max_bytes: int, counts: Counts) -> None:
        """`inputs` are the model's, by attribute; `max_bytes` is for each track."""
        self.tracks: dict[str, InputTrack] = {
            spec.name: InputTrack(spec, max_bytes, counts.inputs[spec.name])
            for input_class in inputs.values()
            for spec in input_class.__tracks__
        }
        """By name."""
        self.bound = {attribute: self._bind(input_class) for attribute, input_class in inputs.items()}
        """The values of the model's attributes, for this session."""

    def _bind(self, input_class: type[Input]) -> Input:
        # Not by a call: an author who makes an `Input` is told that nobody does.
        bound: Input = object.__new__(input_class)
        for spec in input_class.__tracks__:
            object.__setattr__(bound, spec.name, self.tracks[spec.name])
        return bound

    def close(self) -> None:
        """The client is gone."""
        for track in self.tracks.values():
            track.close()
