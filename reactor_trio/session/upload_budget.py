"""What the uploads of all sessions together may take: of the memory, and of the disk.

A session has its own quota (`protocol/upload_ledger.py`); this is the process's, shared by all sessions of a
host. Room for a whole file is reserved when it is announced, before any byte, and given back when the upload
has failed or its session has ended: so nobody is turned away in the middle. A file for which the memory has
no room is kept on the disk; only if that has none either, or the file is small, the upload is refused.

Everything happens on the loop, so that no lock is needed.
"""

from __future__ import annotations

import enum

import trio

RESIDENT_SHARE = 0.5
"""How much of the memory files may take that stay there: the rest is for what is read back from the disk, or
waits to be written. Such bytes come and go, so whoever waits for room is served."""

LEAST_SPILLED = 1024 * 1024
"""A smaller file does not go to the disk for want of memory: each takes a descriptor there."""


class Place(enum.Enum):
    """Where the bytes of an upload are kept."""

    MEMORY = "memory"
    DISK = "disk"


class UploadBudget:
    """Counts bytes. `max_memory_bytes` and `max_disk_bytes` are for all sessions together."""

    def __init__(self, *, max_memory_bytes: int, max_disk_bytes: int) -> None:
        self._max_memory = max_memory_bytes
        self._max_resident = int(max_memory_bytes * RESIDENT_SHARE)
        self._max_disk = max_disk_bytes
        # Reserved for files that stay in memory; read back and lent to handlers; not yet on the disk.
        self._resident = self._lent = self._unwritten = 0
        self._disk = 0
        # Set by whoever gives memory back; the one in `lend` whose turn it is waits for it.
        self._room = trio.Event()
        # For order: large files wait in line too.
        self._turn = trio.Lock()

    @property
    def memory(self) -> int:
        """Bytes of memory that are reserved, lent or wait to be written."""
        return self._resident + self._lent + self._unwritten

    @property
    def disk(self) -> int:
        """Bytes of the disk that are reserved."""
        return self._disk

    def reserve(self, size: int, *, in_memory: bool) -> Place | None:
        """Reserve room for a file, in memory if that is wished and there is some; None: there is none.

        A small file is not spilled to the disk.
        """
        has_memory = self._resident + size <= self._max_resident and self.memory + size <= self._max_memory
        if not size or (in_memory and has_memory):
            self._resident += size
            return Place.MEMORY
        is_spilled = in_memory and size < LEAST_SPILLED
        if is_spilled or self._disk + size > self._max_disk:
            return None
        self._disk += size
        return Place.DISK

    def give_back(self, size: int, place: Place) -> None:
        """Undo a `reserve`."""
        if place is Place.DISK:
            self._disk -= size
        else:
            self._resident -= size
            self._room.set()

    def has_room_for_unwritten(self, size: int) -> bool:
        """Whether so many more bytes may wait in memory for the disk."""
        return self.memory + size <= self._max_memory

    def add_unwritten(self, size: int) -> None:
        """So many bytes wait in memory for the disk; less than none: they no longer do."""
        self._unwritten += size
        if size < 0:
            self._room.set()

    async def lend(self, size: int) -> None:
        """Wait until there is memory to read so many bytes back, first come, first served.

        If nothing else is lent it need not fit: one file alone can always be read. If cancelled, nothing is
        lent.
        """
        async with self._turn:
            while self._lent and self.memory + size > self._max_memory:
                self._room = trio.Event()
                await self._room.wait()
            self._lent += size

    def return_lent(self, size: int) -> None:
        """Undo a `lend`."""
        self._lent -= size
        self._room.set()
