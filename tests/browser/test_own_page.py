"""A page of the author's own, served with `--web`: it imports the client from the server, and may connect."""

from __future__ import annotations

from pathlib import Path

import pytest
from browsing import HERE, home
from playwright.sync_api import Page, expect

from serving import serve

PAGE = """<!doctype html>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="style.css">
<p id="state">nothing yet</p>
<script type="module">
  import { connect } from "UP/reactor.js";
  const client = connect("UP/ws");
  const { model } = await client.ready;
  document.querySelector("#state").textContent = model.name;
</script>
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    (site / "sub").mkdir(parents=True)
    (site / "index.html").write_text(PAGE.replace("UP", "."))
    (site / "sub" / "index.html").write_text(PAGE.replace("UP", ".."))
    for folder in (site, site / "sub"):
        (folder / "style.css").write_text("p { color: rgb(1, 2, 3) }")
    return site


def test_a_page_of_ones_own_connects_and_the_playground_stays(page: Page, tmp_path: Path, site: Path) -> None:
    with serve(HERE / "wall.py", tmp_path, "--web", str(site)) as server:
        for path in ("", "sub", "sub/"):
            page.goto(home(server) + path)
            expect(page.locator("#state")).to_have_text("Wall")
            expect(page.locator("#state")).to_have_css("color", "rgb(1, 2, 3)")
        page.goto(home(server) + "playground")
        expect(page.locator("#state-text")).to_have_text("Connected")
