"""Uploads in a payload: `{"upload_id": "..."}` -> the file of this id."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs

from reactor_trio.contract.constraints import check_upload
from reactor_trio.contract.faults import UNRESOLVED_UPLOAD, Misfit, StillArriving, plainly, shown

if TYPE_CHECKING:
    from reactor_trio.contract.hooks import Hook
    from reactor_trio.contract.type_tree import UploadRule
    from reactor_trio.declare.uploaded_file import UploadedFile


@attrs.frozen
class PendingUpload:
    """An upload that was announced and is still arriving."""

    upload_id: str
    name: str
    mime_type: str
    size: int


class PendingUploads(Exception):
    """A payload cannot be structured yet: its only faults are uploads that are still arriving."""

    def __init__(self, upload_ids: tuple[str, ...]) -> None:
        super().__init__(upload_ids)
        self.upload_ids = upload_ids


class Files(Protocol):
    """The files that a payload may refer to, by upload id. A mapping has this method."""

    def get(self, upload_id: str, /) -> UploadedFile | PendingUpload | None:
        """The upload of this id; None if the session has none."""
        ...


class Context:
    """The state of structuring one payload, which hooks need beside the value."""

    __slots__ = ("files", "is_trying", "tried")

    def __init__(self, files: Files) -> None:
        self.files = files
        self.is_trying = False
        """Whether a value is being tried as a member of a union."""
        self.tried: dict[tuple[int, int], tuple[bool, Any]] = {}
        """The results of tries: (id of the value, key of the member) -> (whether it fits, the result or the
        error)."""


CONTEXT: Final[ContextVar[Context]] = ContextVar("CONTEXT")
"""Set while a payload is structured, if it has uploads, or unions whose members may have to be tried."""


def upload_hook(rule: UploadRule) -> Hook:
    """The hook of an `UploadedFile`."""

    def structure(value: Any, _: Any) -> UploadedFile:
        upload_id = value.get("upload_id") if isinstance(value, dict) and len(value) == 1 else None
        if not isinstance(upload_id, str):
            raise Misfit('must be an upload, as in {"upload_id": "..."}' + _instead(value))
        file = CONTEXT.get().files.get(upload_id)
        if file is None:
            raise Misfit(f"names no upload of this session: {plainly(upload_id)}", UNRESOLVED_UPLOAD)
        check_upload(rule, file.size, file.mime_type)
        if isinstance(file, PendingUpload):
            raise StillArriving(file.upload_id)
        return file

    return structure


def _instead(value: Any) -> str:
    if not isinstance(value, dict):
        return f", not {shown(value)}"
    if "upload_id" not in value:
        return "; upload_id is missing"
    return "; upload_id is a string, and there is nothing beside it"
