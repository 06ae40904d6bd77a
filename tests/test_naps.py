"""The pacer's sleep: it ends with its deadline, and never hides that a scope further out was cancelled."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from reactor_trio.session.naps import sleep_until_cancelled


async def test_it_ends_when_its_scope_does_whose_deadline_may_change(autojump_clock: MockClock) -> None:
    with trio.CancelScope(deadline=trio.current_time() + 5) as nap:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleep_until_cancelled)
            await trio.sleep(1)
            nap.deadline = trio.current_time() + 1
            with pytest.raises(trio.Cancelled):
                await trio.sleep_forever()
    assert trio.current_time() == 2


async def test_a_scope_further_out_shows_at_the_next_checkpoint(autojump_clock: MockClock) -> None:
    with trio.move_on_after(1) as outer:
        with trio.move_on_after(5) as nap:
            await sleep_until_cancelled()
        assert outer.cancel_called
        assert not nap.cancel_called
        await trio.lowlevel.checkpoint_if_cancelled()
        pytest.fail("the checkpoint let it go on")
    assert outer.cancelled_caught
    assert trio.current_time() == 1
