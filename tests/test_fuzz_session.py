"""A client that does anything at any time, and the rules that its session must keep all the same.

Hypothesis draws the client's actions; `Oracle` knows, from the wire's rules alone, which answers each
message may get. Everything runs in virtual time, so a failing example can be played again.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from reactor_trio import (
    CommandError,
    ModelMessage,
    ReactorModel,
    UploadedFile,
    connected,
    disconnected,
    event,
    file_uploaded,
)
from reactor_trio.protocol.binary import UploadChunk, encode_upload_chunk
from reactor_trio.session.limits import Limits
from reactor_trio.testing import InlineExecutor, load_host
from reactor_trio.testing.leaks import left_open
from slow_executor import SlowExecutor
from strict_transport import StrictTransport
from traces import logged_errors, temporary_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reactor_trio.link.host import ModelHost
    from reactor_trio.session.session import Session

EXAMPLES = 1000
LIMITS = Limits(
    heartbeat=5.0,
    send_timeout=4.0,
    close_timeout=1.0,
    hook_timeout=1.0,
    upload_timeout=3.0,
    upload_stall_timeout=3600.0,
    spool_bytes=8,
    upload_chunk_bytes=16,
    max_upload_bytes=24,
    max_session_upload_bytes=48,
    max_uploads=4,
    max_queued_events=3,
    max_queued_messages=4,
    max_queued_bytes=600,
    max_bad_messages=4,
)
QUIET = 60.0
"""Virtual seconds in which a session finishes all its work."""


class Said(ModelMessage):
    text: str


class Fuzzed(ReactorModel):
    """Notes its handlers and hooks in the order in which they run; `n` is a command's number."""

    notes: list[tuple[str, int]]
    files: list[str]
    faults: list[str]

    @connected
    async def on_connect(self) -> None:
        self._enter("@connected", 0)
        await trio.sleep(0.01)
        self.busy = False

    def _enter(self, name: str, n: int) -> None:
        if getattr(self, "busy", name != "@connected"):
            self.faults.append(f"{name} beside another handler, or before @connected")
        self.notes.append((name, n))

    async def _work(self, name: str, n: int, seconds: float) -> None:
        self._enter(name, n)
        self.busy = True
        try:
            await trio.sleep(seconds)
        finally:
            self.busy = False

    @event
    def mark(self, n: int) -> Said:
        self._enter("mark", n)
        return Said(text=str(n))

    @event
    async def work(self, n: int) -> None:
        await self._work("work", n, 0.7)

    @event
    def later(self, n: int):  # type: ignore[no-untyped-def]
        return self._work("later", n, 0.2)

    @event(in_thread=True)
    def think(self, n: int) -> Said:
        self._enter("think", n)
        return Said(text=str(n))

    @event(dedupe=True)
    async def set_ref(self, n: int) -> None:
        await self._work("set_ref", n, 0.3)

    @event(dedupe=True)
    def set_now(self, n: int) -> None:
        self._enter("set_now", n)

    @event
    async def say(self, n: int) -> None:
        self._enter("say", n)
        self.busy = True
        try:
            for _ in range(8):
                await self.send(Said(text="x" * 90))
        finally:
            self.busy = False

    @event
    def refuse(self, n: int) -> None:
        self._enter("refuse", n)
        raise CommandError("too_dark", "no light")

    @event
    async def fail(self, n: int) -> None:
        await self._work("fail", n, 0.1)
        raise RuntimeError("the author's bug")

    @event(dedupe=True)
    async def use(self, n: int, file: UploadedFile) -> Said:
        await self._work("use", n, 0.2)
        return Said(text=file.data.decode())

    @event
    def take(self, n: int, file: UploadedFile) -> Said:
        self._enter("take", n)
        return Said(text=file.data.decode())

    @file_uploaded
    async def on_file(self, uploaded_file: UploadedFile) -> None:
        self.files.append(uploaded_file.name)
        await self._work("@file_uploaded", 0, 0.1)

    @disconnected
    async def on_disconnect(self) -> None:
        await trio.sleep(0.01)
        self.notes.append(("@disconnected", 0))


PLAIN = ["mark", "work", "later", "think", "say", "set_ref", "set_now", "refuse", "fail"]
COMMANDS = {*PLAIN, "use", "take"}
DEDUPED = {"set_ref", "set_now", "use"}
RAN = {
    "mark": "said",
    "think": "said",
    "use": "said",
    "take": "said",
    "refuse": "too_dark",
    "fail": "internal_error",
}
"""The answer to a command whose handler has run; commands that are not listed get `reactor.ack`."""
GARBAGE: list[str | bytes] = ["?", "[1]", '{"type": 5}', b"", b"\x09\x00\x02{}", b"\x01\x00\x02{}"]


def content(upload_id: str, size: int) -> bytes:
    return (upload_id.encode() * 30)[:size]


# ---- the rules


@attrs.define
class Sent:
    """A message with an id, and the answers that it may get. `must` is False while no answer is due."""

    n: int
    name: str
    may: set[str]
    must: bool = True
    aside: bool = False
    text: str | None = None
    ahead: list[int] = attrs.field(factory=list)
    """Commands that may have waited when this one was sent."""


@attrs.define
class File:
    size: int
    start: Sent
    received: int = 0
    state: str = "receiving"


@attrs.define
class Oracle:
    """The wire's rules (docs/design.md#the-wire), for messages in the order in which they are sent."""

    sent: dict[int, Sent] = attrs.field(factory=dict)
    files: dict[str, File] = attrs.field(factory=dict)
    spent: set[str] = attrs.field(factory=set)
    surplus: set[str] = attrs.field(factory=set)
    # Errors that answer no id: the number of errors that are due, by code.
    complaints: dict[str, int] = attrs.field(factory=dict)
    bad: int = 0
    too_many: bool = False

    def message(self, type_: str, may: set[str], **data: Any) -> tuple[Sent, str]:
        n = len(self.sent) + 1
        sent = self.sent[n] = Sent(n, type_, may)
        self.bad = 0
        return sent, json.dumps({"type": type_, "data": data, "id": n})

    def command(self, name: str) -> str:
        may = {RAN.get(name, "reactor.ack"), "overloaded"}
        if name in DEDUPED:
            may.add("reactor.superseded")
        return self.message(name, may, n=len(self.sent) + 1)[1]

    def wrong(self, kind: str) -> str:
        match kind:
            case "unknown":
                return self.message("explode", {"unknown_event"})[1]
            case "invalid":
                return self.message("mark", {"invalid_payload"}, n="one", x=1)[1]
            case _:
                return self.message("reactor.ping", {"reactor.pong"}, t=len(self.sent))[1]

    def garbage(self, which: int) -> str | bytes:
        self.complain("bad_message")
        self.bad += 1
        self.too_many |= self.bad >= LIMITS.max_bad_messages
        return GARBAGE[which]

    def complain(self, code: str) -> None:
        self.complaints[code] = self.complaints.get(code, 0) + 1

    def use(self, name: str, upload_id: str) -> str:
        file = self.files.get(upload_id)
        sent, text = self.message(name, set(), n=len(self.sent) + 1, file={"upload_id": upload_id})
        if file is None:
            sent.may = {"unresolved_upload"}
            return text
        sent.may = {"said", "overloaded"} | ({"reactor.superseded"} if name in DEDUPED else set())
        sent.text = content(upload_id, file.size).decode()
        # A spooled file must be read back first: until then the command waits aside too.
        sent.aside = file.state == "receiving" or file.size > LIMITS.spool_bytes
        if file.state == "receiving":
            sent.may.add("unresolved_upload")
        return text

    def start(self, upload_id: str, size: int) -> str:
        data = {"upload_id": upload_id, "name": upload_id, "mime_type": "t", "size": size}
        sent, text = self.message("reactor.upload_start", set(), **data)
        used = sum(file.size for file in self.files.values())
        if upload_id in self.files or upload_id in self.spent:
            sent.may = {"upload_rejected"}
        elif size > LIMITS.max_upload_bytes:
            sent.may, _ = {"upload_too_large"}, self.spent.add(upload_id)
        elif size > LIMITS.max_session_upload_bytes - used or len(self.files) >= LIMITS.max_uploads:
            sent.may, _ = {"upload_quota"}, self.spent.add(upload_id)
        else:
            self.files[upload_id] = File(size, sent)
            sent.must = False
            self._complete_if_whole(self.files[upload_id])
        return text

    def _complete_if_whole(self, file: File) -> None:
        if file.received == file.size:
            file.state, file.start.may, file.start.must = "complete", {"reactor.upload_complete"}, True

    def _fail(self, upload_id: str) -> None:
        start = self.files.pop(upload_id).start
        start.may, start.must = {"upload_rejected"}, True
        self.spent.add(upload_id)

    def chunk(self, upload_id: str, slip: int, length: int) -> bytes:
        file = self.files.get(upload_id)
        self.bad = 0
        if file is None:
            offset = max(slip, 0)
            if upload_id not in self.spent:
                self.spent.add(upload_id)
                self.complain("upload_rejected")
            return encode_upload_chunk(UploadChunk(upload_id, offset, b"z" * length))
        offset = max(file.received + slip, 0)
        payload = content(upload_id, offset + length)[offset:]
        whole = file.state == "complete"
        if whole and not (length == 0 and offset == file.size) and upload_id not in self.surplus:
            self.surplus.add(upload_id)
            self.complain("upload_rejected")
        elif not whole and (
            offset != file.received
            or not 0 < length <= LIMITS.upload_chunk_bytes
            or offset + length > file.size
        ):
            self._fail(upload_id)
        elif not whole:
            file.received += length
            self._complete_if_whole(file)
        return encode_upload_chunk(UploadChunk(upload_id, offset, payload))

    def abort(self, upload_id: str) -> str:
        sent, text = self.message("reactor.upload_abort", {"upload_rejected"}, upload_id=upload_id)
        if upload_id in self.files and self.files[upload_id].state == "receiving":
            self._fail(upload_id)
            sent.may = {"reactor.ack"}
        return text


# ---- the client's actions

upload_ids = st.sampled_from("abcdef")
slips = st.sampled_from([0] * 8 + [-1, 1])
lengths = st.sampled_from([4, 8, 8, 12, 16, 16, 0, 1, 17])
sizes = st.sampled_from([4, 8, 8, 16, 16, 24, 0, 25])
actions = st.one_of(
    st.tuples(st.just("command"), st.sampled_from(PLAIN)),
    st.tuples(st.just("command"), st.sampled_from([*DEDUPED - {"use"}])),
    st.tuples(st.just("wrong"), st.sampled_from(["unknown", "invalid", "ping"])),
    st.tuples(st.just("garbage"), st.integers(0, len(GARBAGE) - 1)),
    st.tuples(st.just("start"), upload_ids, sizes),
    st.tuples(st.just("chunk"), upload_ids, slips, lengths),
    st.tuples(st.just("upload"), upload_ids, sizes, lengths),
    st.tuples(st.just("abort"), upload_ids),
    st.tuples(st.just("use"), st.sampled_from(["use", "take"]), upload_ids),
    st.tuples(st.just("advance"), st.sampled_from([0.0, 0.01, 0.1, 0.1, 0.5, 0.5, 2.0])),
    st.tuples(st.just("pause")),
    st.tuples(st.just("resume")),
)
endings = st.sampled_from(["hang_up", "cut", "freeze", "stall", "drain", "cancel"])


@attrs.define
class Player:
    """Plays one example against a session."""

    session: Session
    transport: StrictTransport
    oracle: Oracle = attrs.field(factory=Oracle)
    faults: list[str] = attrs.field(factory=list)

    async def play(self, action: tuple[Any, ...]) -> None:
        match action:
            case ("advance", seconds):
                await trio.sleep(seconds)
            case ("pause",):
                self.transport.pause()
            case ("resume",):
                self.transport.resume()
            case ("upload", upload_id, size, length):
                self.transport.arrive(self.oracle.start(upload_id, size))
                for _ in range(4):
                    self.transport.arrive(self.oracle.chunk(upload_id, 0, length))
            case (name, *arguments):
                self.transport.arrive(getattr(self.oracle, name)(*arguments))
                self._note_what_waits()
        self.check_bounds()

    def _note_what_waits(self) -> None:
        model, sent = self.session.model, self.oracle.sent
        newest = sent.get(len(sent))
        if newest is not None and newest.name in COMMANDS and not newest.ahead:
            begun = {n for _, n in model.notes}
            newest.ahead = [
                n for n, s in sent.items() if n < newest.n and s.name in COMMANDS and n not in begun
            ]

    def check_bounds(self) -> None:
        now = self.session.statistics()
        kept = now.upload_bytes_in_memory + now.upload_bytes_on_disk
        bounds = {
            f"{now.messages_waiting} messages wait": now.messages_waiting <= LIMITS.max_queued_messages,
            f"{now.bytes_waiting} bytes wait": now.messages_waiting == 1
            or now.bytes_waiting <= LIMITS.max_queued_bytes,
            f"{now.commands_waiting} commands and files wait": now.commands_waiting
            <= LIMITS.max_queued_events + LIMITS.max_uploads,
            # The file that one command has read back from the disk is in memory too.
            f"{kept} bytes uploaded": kept <= LIMITS.max_session_upload_bytes + LIMITS.max_upload_bytes,
        }
        if self.transport.is_read and now.messages_waiting == 0 and now.state != "ending":
            # Commands wait in the queue or aside for an upload, and the dispatcher holds one.
            waiting = self._unanswered() - {n for _, n in self.session.model.notes}
            bounds[f"{waiting} wait"] = len(waiting) <= LIMITS.max_queued_events + 1
        self.faults += [text for text, holds in bounds.items() if not holds]

    def _unanswered(self) -> set[int]:
        return {n for n, sent in self.oracle.sent.items() if sent.name in COMMANDS} - {
            n for n, _, _ in self.answers()
        }

    # ---- afterwards

    def answers(self) -> list[tuple[int, str, dict[str, Any]]]:
        """Id, kind and data of every answer: the kind is the type, or the code of an error."""
        messages = [json.loads(message) for _, message in self.transport.read if isinstance(message, str)]
        return [
            (message["reply_to"], message["data"].get("code", message["type"]), message["data"])
            for message in messages
            if "reply_to" in message
        ]

    def check(self, *, is_quiet: bool) -> None:
        """Check all rules at the end; `is_quiet`: the session had time to do and answer everything."""
        answers = self.answers()
        kinds = {id_: kind for id_, kind, _ in answers}
        if len(kinds) != len(answers):
            self.faults.append(f"answered twice: {answers}")
        for id_, kind, data in answers:
            sent = self.oracle.sent[id_]
            if kind not in sent.may:
                self.faults.append(f"{sent} was answered {kind}: {data}")
            if kind == "said" and data["text"] != (sent.text if sent.text is not None else str(id_)):
                self.faults.append(f"{sent} got the wrong text: {data}")
        if is_quiet:
            missing = [sent for sent in self.oracle.sent.values() if sent.must and sent.n not in kinds]
            self.faults += [f"never answered: {sent}" for sent in missing]
            self._check_complaints()
        self._check_handlers(kinds, is_quiet)
        self._check_dedupe(kinds)
        self._check_overloaded(kinds)

    def _check_complaints(self) -> None:
        found: dict[str, int] = {}
        for _, message in self.transport.read:
            data = json.loads(message)
            if data["type"] == "reactor.error" and "reply_to" not in data:
                found[data["data"]["code"]] = found.get(data["data"]["code"], 0) + 1
        if found != self.oracle.complaints:
            self.faults.append(f"complained {found}, not {self.oracle.complaints}")

    def _check_handlers(self, kinds: dict[int, str], is_quiet: bool) -> None:
        model = self.session.model
        ran = [n for _, n in model.notes if n]
        in_turn = [n for n in ran if not self.oracle.sent[n].aside]
        if in_turn != sorted(in_turn) or len(set(ran)) != len(ran):
            self.faults.append(f"not in the order of arrival: {model.notes}")
        refusals = {"reactor.superseded", "overloaded", "unresolved_upload", "invalid_payload"}
        for n, kind in kinds.items():
            sent = self.oracle.sent[n]
            is_command = not sent.name.startswith("reactor.") and sent.name != "explode"
            if is_command and (n in ran) != (kind not in refusals):
                self.faults.append(f"{sent} was answered {kind}, but {n in ran=}")
        if is_quiet:
            complete = [name for name, file in self.oracle.files.items() if file.state == "complete"]
            if sorted(model.files) != sorted(complete):
                self.faults.append(f"@file_uploaded for {model.files}, complete are {complete}")

    def _check_dedupe(self, kinds: dict[int, str]) -> None:
        """A superseded command has a later command of the same event that was taken."""
        for name in DEDUPED:
            taken = [
                n
                for n, kind in kinds.items()
                if self.oracle.sent[n].name == name and self.oracle.sent[n].may != {"unresolved_upload"}
                if kind != "overloaded"
            ]
            answered = all(s.n in kinds for s in self.oracle.sent.values() if s.name == name)
            if taken and answered and kinds[max(taken)] == "reactor.superseded":
                self.faults.append(f"the last {name}, {max(taken)}, was superseded: {kinds}")

    def _check_overloaded(self, kinds: dict[int, str]) -> None:
        """`overloaded` is due only if `max_queued_events` commands may have waited; files do not count."""
        for n, kind in kinds.items():
            sent = self.oracle.sent[n]
            ahead = [
                m
                for m in sent.ahead
                if kinds.get(m) != "overloaded" and self.oracle.sent[m].may != {"unresolved_upload"}
            ]
            if kind == "overloaded" and len(ahead) < LIMITS.max_queued_events:
                self.faults.append(f"{n} was overloaded, with only {ahead} ahead of it")

    def check_ended(self) -> None:
        """Nothing is left of the session, however it ended."""
        session, model = self.session, self.session.model
        hooks = [name for name, _ in model.notes if name in ("@connected", "@disconnected")]
        checks = {
            f"hooks: {hooks}": hooks in ([], ["@connected", "@disconnected"]),
            "@disconnected was not last": not hooks or model.notes[-1][0] == "@disconnected",
            "the connection is open": self.transport.has_ended and self.transport.aborted,
            f"{session.ending}": session.ending is not None
            and (session.ending.reason != "too_many_errors" or self.oracle.too_many),
        }
        self.faults += [text for text, holds in checks.items() if not holds]
        self.faults += [*self.transport.faults, *model.faults, *map(str, left_open(session))]
        goodbyes = [n for n, (_, m) in enumerate(self.transport.read) if "reactor.goodbye" in str(m)]
        if goodbyes and goodbyes != [len(self.transport.read) - 1]:
            self.faults.append(f"messages after the goodbye: {self.transport.read[goodbyes[0] :]}")


async def play_example(
    host: ModelHost,
    script: list[Any],
    ending: str,
    is_quiet: bool,
    capacity: float,
    short_writes: bool,
) -> list[str]:
    transport = StrictTransport(
        send_timeout=LIMITS.send_timeout, capacity=capacity, short_writes=short_writes
    )
    session = host.session(transport)
    session.model.notes, session.model.files, session.model.faults = [], [], []
    player = Player(session, transport)
    with trio.move_on_after(1000) as hang:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            for action in script:
                await player.play(action)
            if is_quiet:
                transport.resume()
                await trio.sleep(QUIET)
                player.check(is_quiet=session.ending is None)
            match ending:
                case "drain":
                    session.drain()
                case "cancel":
                    nursery.cancel_scope.cancel()
                case _:
                    getattr(transport, ending)()
    if hang.cancelled_caught:
        player.faults.append("it hangs")
    player.check(is_quiet=False)
    player.check_ended()
    return player.faults


@attrs.define
class Stage:
    """The traces that an example may leave: temporary files, and errors in the log."""

    files: list[Any]
    logged: list[dict[str, Any]]

    @property
    def errors(self) -> list[str]:
        return [
            f"{entry['event']}: {entry.get('exc_info')!r}"
            for entry in self.logged
            if entry["event"] != "handler failed"
        ]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with temporary_files() as files, logged_errors() as logged:
        yield Stage(files, logged)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    script=st.lists(actions, min_size=10, max_size=100),
    ending=endings,
    is_quiet=st.booleans(),
    capacity=st.sampled_from([float("inf"), 1000, 150]),
    short_writes=st.booleans(),
    in_threads=st.booleans(),
)
# Both tasks of the link end while the session closes, during which nothing can be written to the client.
@example(
    script=[("command", "mark")] * 9 + [("pause",)],
    ending="drain",
    is_quiet=False,
    capacity=1000,
    short_writes=False,
    in_threads=False,
)
async def test_whatever_a_client_does_its_session_keeps_the_rules(
    stage: Stage,
    script: list[Any],
    ending: str,
    is_quiet: bool,
    capacity: float,
    short_writes: bool,
    in_threads: bool,
) -> None:
    stage.files.clear()
    stage.logged.clear()
    executor = SlowExecutor(0.05) if in_threads else InlineExecutor()
    host = await load_host(Fuzzed, limits=LIMITS, executor=executor)
    faults = await play_example(host, script, ending, is_quiet, capacity, short_writes)
    faults += [f"a temporary file is open: {file!r}" for file in stage.files if not file.closed]
    faults += [f"logged: {error}" for error in stage.errors]
    assert not faults, "\n".join(faults)
