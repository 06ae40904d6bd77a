"""The budget of memory and disk space that the uploads of all sessions of a host share.

Each session has a quota of its own besides (`protocol/upload_ledger.py`). Room for a whole file is reserved
when the file is announced, before its first byte, and given back when the upload has failed or its session
has ended; so an upload that has begun is never refused for want of room. A file without room in memory is
kept on the disk. An upload is refused only if the disk has no room either, or if the file is small.

All methods run on the loop, so the counters need no lock.
"""

from __future__ import annotations

import enum

import trio

RESIDENT_SHARE = 0.5
"""Share of the memory for files that stay in memory. The rest is for files that are read back from the disk,
and for chunks that wait to be written: these are released soon, so a waiting `lend` gets its room."""

LEAST_SPILLED = 1024 * 1024
"""Bytes. A smaller file is not moved to the disk for want of memory: each takes a file descriptor."""


class Place(enum.Enum):
    """The place of an upload's bytes."""

    MEMORY = "memory"
    DISK = "disk"


class UploadBudget:
    """Counts the bytes of the uploads of all sessions, and grants or refuses more.

    A host has one; the uploads of its links call it. `max_memory_bytes` and `max_disk_bytes` are for all
    sessions together.
    """

    def __init__(self, *, max_memory_bytes: int, max_disk_bytes: int) -> None:
        self._max_memory = max_memory_bytes
        self._max_resident = int(max_memory_bytes * RESIDENT_SHARE)
        self._max_disk = max_disk_bytes
        # Bytes of memory: for files that stay there; for files read back for handlers; not yet on the disk.
        self._resident = self._lent = self._unwritten = 0
        self._disk = 0
        # Set by the methods that free memory; awaited by the `lend` that holds `_turn`.
        self._room = trio.Event()
        # Keeps the order of the waiting `lend` calls, so that small files do not overtake large ones.
        self._turn = trio.Lock()

    @property
    def memory(self) -> int:
        """Bytes of memory that are reserved, lent or waiting to be written."""
        return self._resident + self._lent + self._unwritten

    @property
    def disk(self) -> int:
        """Bytes of disk space that are reserved."""
        return self._disk

    def reserve(self, size: int, *, in_memory: bool) -> Place | None:
        """Reserve room for a file of `size` bytes; returns its place, None if there is no room.

        `in_memory`: try the memory first, and the disk then, unless the file is small. Otherwise only the
        disk is tried.
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
        """Give back the room of one `reserve`."""
        if place is Place.DISK:
            self._disk -= size
        else:
            self._resident -= size
            self._room.set()

    def has_room_for_unwritten(self, size: int) -> bool:
        """Whether `size` more bytes may wait in memory to be written to the disk."""
        return self.memory + size <= self._max_memory

    def add_unwritten(self, size: int) -> None:
        """Count `size` more bytes that wait in memory to be written; a negative `size` counts fewer."""
        self._unwritten += size
        if size < 0:
            self._room.set()

    async def lend(self, size: int) -> None:
        """Wait until there is memory to read `size` bytes back from the disk, in the order of the calls.

        If no other bytes are lent, `size` is lent even without room, so a single file can always be read. If
        cancelled, no bytes are lent.
        """
        async with self._turn:
            while self._lent and self.memory + size > self._max_memory:
                self._room = trio.Event()
                await self._room.wait()
            self._lent += size

    def return_lent(self, size: int) -> None:
        """Give back the bytes of one `lend`."""
        self._lent -= size
        self._room.set()
