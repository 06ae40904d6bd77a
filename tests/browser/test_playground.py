"""The playground in a real Chromium: the tests read its pictures' pixels and its sound's meter."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from axe_playwright_python.sync_playwright import Axe
from browsing import HERE, home
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from serving import ROOT, Served, serve

MEAN = """canvas => {
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const sums = [0, 0, 0];
  for (let at = 0; at < pixels.length; at += 4) for (let c = 0; c < 3; c++) sums[c] += pixels[at + c];
  return sums.map(sum => sum / (pixels.length / 4));
}"""
"""A function of JavaScript: the mean red, green and blue of a canvas that was drawn in 2D."""
CLOSE = 12.0
"""The error that a colour may have, of 255: JPEG and the colour spaces of video change colours a little."""

NOISE = np.random.default_rng(7)


def screen(page: Page, name: str) -> Locator:
    """The canvas of an output track, once a picture is drawn."""
    return page.get_by_role("img", name=re.compile(rf"^{name}, \d+ by \d+ pixels$"))


def wait_for_colour(page: Page, track: str, wanted: tuple[float, float, float]) -> None:
    """Wait until the mean colour of the track's picture is `wanted`."""
    canvas = screen(page, track).element_handle()
    page.wait_for_function(
        f"([canvas, wanted]) => ({MEAN})(canvas).every((c, i) => Math.abs(c - wanted[i]) < {CLOSE})",
        arg=[canvas, list(wanted)],
    )


def grey(level: float) -> tuple[float, float, float]:
    return level, level, level


def drag(page: Page, slider: Locator, share: float) -> None:
    """Drag the slider's thumb with the mouse, from its place to `share` of the slider's width."""
    box = slider.bounding_box()
    assert box is not None
    low, high, now = (
        float(slider.evaluate(f"input => Number(input.{name})")) for name in ("min", "max", "value")
    )
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * (now - low) / (high - low), middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * share, middle, steps=12)
    page.mouse.up()


# ---- pictures and commands


def test_pictures_are_there_at_once_and_every_command_has_its_controls(page: Page, wall: Served) -> None:
    page.goto(home(wall))

    wait_for_colour(page, "Wall", grey(40))
    for command in ("Set level", "Set name", "Hang"):
        expect(page.get_by_role("form", name=command)).to_be_visible()
    expect(page).to_have_title(re.compile("Wall"))


def test_dragging_a_slider_changes_the_picture_and_says_how_long_it_took(page: Page, wall: Served) -> None:
    page.goto(home(wall))
    wait_for_colour(page, "Wall", grey(40))

    slider = page.get_by_role("slider", name="Level", exact=True)
    drag(page, slider, 0.8)
    level = float(slider.input_value())
    assert 190 < level < 220
    wait_for_colour(page, "Wall", grey(level))

    status = page.get_by_role("region", name="Status")
    expect(status.get_by_text(re.compile(r"^\d+(\.\d)? ms$")).first).to_be_visible()
    for stage in ("wait", "handle", "emit", "pace", "encode", "network", "display"):
        expect(status.get_by_text(stage, exact=True)).to_be_visible()


def test_a_slider_is_moved_by_the_keyboard_alone(page: Page, wall: Served) -> None:
    page.goto(home(wall))
    wait_for_colour(page, "Wall", grey(40))

    slider = page.get_by_role("slider", name="Level", exact=True)
    for _ in range(40):
        page.keyboard.press("Tab")
        if slider.evaluate("input => input === document.activeElement"):
            break
    else:
        pytest.fail("the slider cannot be reached with Tab")
    page.keyboard.press("End")
    wait_for_colour(page, "Wall", grey(255))
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    wait_for_colour(page, "Wall", grey(250))


def test_an_upload_shows_its_progress_and_then_its_picture(page: Page, wall: Served, tmp_path: Path) -> None:
    # Noise, which JPEG cannot make small: the upload takes many chunks.
    pixels = NOISE.integers(0, 256, (1500, 2000, 3), np.uint8)
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(simplejpeg.encode_jpeg(pixels, 100))
    assert photo.stat().st_size > 4_000_000
    page.goto(home(wall))
    wait_for_colour(page, "Wall", grey(40))

    page.evaluate(
        """() => {
          window.progress = [];
          const note = () => {
            for (const bar of document.querySelectorAll("progress, [role=progressbar]"))
              window.progress.push(Number(bar.value ?? bar.getAttribute("aria-valuenow")));
          };
          new MutationObserver(note).observe(document.body, {
            subtree: true, childList: true, attributes: true, attributeFilter: ["value", "aria-valuenow"],
          });
        }"""
    )
    form = page.get_by_role("form", name="Hang")
    form.get_by_role("button", name="Picture").set_input_files(photo)
    form.get_by_role("button", name="Send").click()

    wait_for_colour(page, "Wall", tuple(pixels.mean(axis=(0, 1))))  # type: ignore[arg-type]
    expect(screen(page, "Wall")).to_have_accessible_name("Wall, 2000 by 1500 pixels")
    seen = page.evaluate("window.progress")
    assert len(set(seen)) > 3, seen
    assert seen == sorted(seen), "it never goes back"


def test_what_is_no_jpeg_is_refused_beside_its_field(page: Page, wall: Served, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("no picture")
    page.goto(home(wall))

    form = page.get_by_role("form", name="Hang")
    form.get_by_role("button", name="Picture").set_input_files(notes)

    expect(form.get_by_text(re.compile("jpeg", re.IGNORECASE)).last).to_be_visible()
    error = described_error(form.get_by_role("button", name="Picture"))
    assert "jpeg" in error.lower(), error


def described_error(field: Locator) -> str:
    """The error of a field, as a screen reader says it."""
    expect(field).to_have_attribute("aria-invalid", "true")
    return str(
        field.evaluate(
            """field => (field.getAttribute("aria-describedby") ?? "").split(" ")
                 .map(id => document.getElementById(id)).filter(each => each && !each.hidden)
                 .map(each => each.textContent).join(" ")"""
        )
    )


def test_the_server_s_refusal_stands_beside_the_field_that_it_names(page: Page, wall: Served) -> None:
    page.goto(home(wall))
    form = page.get_by_role("form", name="Set name")
    name, boxes = form.get_by_role("textbox", name="Name"), form.get_by_role("textbox", name="Boxes")
    name.fill("Q7")
    boxes.fill('[1, "two"]')
    form.get_by_role("button", name="Send").click()

    assert "at least 3" in described_error(name)
    assert "[1]" in described_error(boxes)

    name.fill("abc")
    boxes.fill("[1, 2]")
    form.get_by_role("button", name="Send").click()
    expect(page.get_by_role("log").get_by_text("painted").first).to_be_visible()
    for field in (name, boxes):
        expect(field).not_to_have_attribute("aria-invalid", "true")


# ---- codecs


@pytest.mark.parametrize("codec", ["h264", "raw"])
def test_another_codec_shows_the_same_picture(page: Page, wall: Served, codec: str) -> None:
    page.goto(home(wall))
    wait_for_colour(page, "Wall", grey(40))

    page.get_by_role("combobox", name="Codec of Wall").select_option(codec)
    status = page.get_by_role("region", name="Status")
    expect(status.get_by_role("definition").get_by_text(codec, exact=True)).to_be_visible()
    page.get_by_role("slider", name="Level", exact=True).fill("200")
    wait_for_colour(page, "Wall", grey(200))


def test_a_track_can_be_paused(page: Page, wall: Served) -> None:
    page.goto(home(wall))
    wait_for_colour(page, "Wall", grey(40))

    page.get_by_role("button", name="Pause Wall").click()
    page.get_by_role("slider", name="Level", exact=True).fill("200")
    expect(page.get_by_role("log").get_by_text("reactor.ack").first).to_be_visible()
    page.wait_for_timeout(500)
    assert screen(page, "Wall").evaluate(MEAN) == pytest.approx(grey(40), abs=CLOSE)
    page.get_by_role("button", name=re.compile("(Resume|Play|Show) Wall")).click()
    wait_for_colour(page, "Wall", grey(200))


# ---- sound, camera, microphone


def test_sound_is_heard_once_it_is_switched_on(page: Page, wall: Served) -> None:
    page.goto(home(wall))
    page.get_by_role("button", name="Play Hum").click()
    meter = page.get_by_role("meter", name="Level of Hum")
    page.wait_for_function(
        "meter => Number(meter.value ?? meter.getAttribute('aria-valuenow')) > 0", arg=meter.element_handle()
    )


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Served]:
    with serve(ROOT / "examples" / "webcam.py", tmp_path) as server:
        yield server


def test_a_webcam_goes_through_the_model_and_comes_back_inverted(page: Page, mirror: Served) -> None:
    page.goto(home(mirror))
    form = page.get_by_role("form", name="Set effect")
    form.get_by_role("slider", name="Strength").fill("1")
    form.get_by_role("radio", name="none").check(force=True)
    page.get_by_role("button", name="Webcam").click()

    expect(screen(page, "Screen")).to_be_visible()
    plain = settled(page, "Screen", wanted="mean[1] > mean[0]")
    form.get_by_role("radio", name="invert").check(force=True)
    wait_for_colour(page, "Screen", tuple(255 - each for each in plain))  # type: ignore[arg-type]


def settled(page: Page, track: str, wanted: str) -> list[float]:
    """The mean colour of a picture that moves a little, once `mean` fulfils the condition `wanted`."""
    canvas = screen(page, track).element_handle()
    page.wait_for_function(f"canvas => {{ const mean = ({MEAN})(canvas); return {wanted}; }}", arg=canvas)
    return [float(each) for each in canvas.evaluate(MEAN)]


def test_a_microphone_is_heard_by_the_model(page: Page, tmp_path: Path) -> None:
    with serve(HERE / "ear.py", tmp_path) as server:
        page.goto(home(server))
        page.get_by_role("button", name="Microphone").click()
        # The fake device beeps once a second.
        expect(page.get_by_role("log").get_by_text("heard").first).to_be_visible()


# ---- servers that restart, and servers with a token


@pytest.mark.expects("WebSocket connection to", "Failed to load resource")
def test_the_page_comes_back_when_the_server_does(page: Page, tmp_path: Path) -> None:
    with serve(HERE / "wall.py", tmp_path) as server:
        page.goto(home(server))
        wait_for_colour(page, "Wall", grey(40))
        page.get_by_role("slider", name="Level", exact=True).fill("90")
        wait_for_colour(page, "Wall", grey(90))
    port = server.url.rpartition(":")[2]
    banner = page.get_by_role("banner")
    expect(banner.get_by_text("Connected", exact=True)).to_be_hidden()

    with serve(HERE / "wall.py", tmp_path, "--port", port):
        expect(banner.get_by_text("Connected", exact=True)).to_be_visible()
        wait_for_colour(page, "Wall", grey(40))
        expect(page.get_by_role("slider", name="Level", exact=True)).to_have_value("90")
        page.get_by_role("slider", name="Level", exact=True).fill("150")
        wait_for_colour(page, "Wall", grey(150))


@pytest.mark.expects("WebSocket connection to", "Failed to load resource")
def test_a_guarded_server_is_entered_with_its_token(page: Page, tmp_path: Path) -> None:
    with serve(HERE / "wall.py", tmp_path, "--token", "open sesame, please") as server:
        page.goto(home(server))
        field = page.get_by_label(re.compile("token", re.IGNORECASE))
        field.fill("open sesame, please")
        field.press("Enter")
        wait_for_colour(page, "Wall", grey(40))
        assert "sesame" not in page.url
        assert "sesame" not in page.content()


@pytest.mark.expects("WebSocket connection to", "Failed to load resource")
def test_a_wrong_token_is_asked_for_again(page: Page, tmp_path: Path) -> None:
    with serve(HERE / "wall.py", tmp_path, "--token", "open sesame, please") as server:
        page.goto(home(server) + "#token=wrong")
        expect(page.get_by_label(re.compile("token", re.IGNORECASE))).to_be_visible()


# ---- unusual models and unusual visitors


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[Served]:
    with serve(HERE / "odd.py", tmp_path) as server:
        yield server


def test_the_first_picture_is_seen_when_it_is_drawn(page: Page, wall: Served) -> None:
    page.add_init_script("window.setInterval = () => 0")  # no timer updates the page
    page.goto(home(wall))
    wait_for_colour(page, "Wall", grey(40))
    expect(page.get_by_text("No picture yet")).to_be_hidden()


def test_what_an_author_writes_is_text_and_no_name_is_special(page: Page, odd: Served) -> None:
    page.goto(home(odd))
    form = page.get_by_role("form", name="Constructor")
    form.get_by_role("spinbutton").fill("7")
    form.get_by_role("button", name="Send").click()
    expect(form.get_by_role("definition")).to_have_text("7")

    form = page.get_by_role("form", name="Talk")
    form.get_by_role("button", name="Send").click()
    expect(form.get_by_text("long", exact=True)).to_be_visible()
    row = page.get_by_role("log").get_by_role("group").filter(has_text="long").last
    row.locator("summary").click()
    expect(row.get_by_text("more characters")).to_be_visible()
    assert len(row.inner_text()) < 60_000, "what is very long is not laid out"
    assert page.evaluate("window.wasRun") is None

    assert page.get_by_text("How wide it is", exact=True).count() == 1, "said of the command and of its field"


def test_a_number_that_a_browser_cannot_tell_exactly_is_not_sent(page: Page, odd: Served) -> None:
    page.goto(home(odd))
    form = page.get_by_role("form", name="Sow")
    field = form.get_by_role("spinbutton", name="Seed")
    field.fill("9007199254740993")
    form.get_by_role("button", name="Send").click()
    assert "9007199254740991" in described_error(field)

    field.fill("4294967295")
    form.get_by_role("button", name="Send").click()
    expect(form.get_by_role("definition")).to_have_text("4294967295")


def test_on_a_telephone_other_pictures_cover_no_button(chromium: Browser, odd: Served) -> None:
    context = chromium.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.goto(home(odd))
    page.get_by_role("button", name="Pause Front").click(timeout=5000)
    page.get_by_role("button", name="Show Side large").click(timeout=5000)
    page.get_by_role("button", name="Pause Side").click(timeout=5000)
    context.close()


LIVE = """() => window.cameras.filter(
  camera => camera.getTracks().some(track => track.readyState === "live")).length"""
"""A function of JavaScript: the number of cameras that are on."""
WATCH_CAMERAS = """
  window.cameras = [];
  const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (wanted) => {
    await new Promise((resolve) => setTimeout(resolve, 200)); // a visitor is asked, and thinks
    const camera = await open(wanted);
    window.cameras.push(camera);
    return camera;
  };
"""


def test_no_camera_is_left_on(page: Page, odd: Served) -> None:
    page.add_init_script(WATCH_CAMERAS)
    page.goto(home(odd))
    webcam = page.get_by_role("button", name="Webcam")
    webcam.dblclick()
    page.wait_for_function("() => window.cameras.length === 2")
    page.wait_for_function(f"() => ({LIVE})() === 1")
    page.get_by_role("button", name="Stop", exact=True).click()
    assert page.evaluate(LIVE) == 0

    webcam.click()
    page.wait_for_function("() => window.cameras.length === 3")
    page.get_by_role("button", name="Run: Leave").click()
    expect(page.get_by_text("The model has finished.").first).to_be_visible()
    page.wait_for_function(f"() => ({LIVE})() === 0")


def test_a_camera_gives_the_width_that_is_chosen_while_it_is_on(page: Page, odd: Served) -> None:
    page.add_init_script(WATCH_CAMERAS)
    page.goto(home(odd))
    page.get_by_role("button", name="Webcam").click()
    page.wait_for_function("() => window.cameras.length === 1")
    page.get_by_role("combobox", name="Width").select_option("320")
    page.wait_for_function("() => window.cameras[0].getTracks()[0].getSettings().width === 320")


# ---- the page's security policy, accessibility and memory


def test_the_policy_forbids_what_was_written_into_the_page(context: BrowserContext, wall: Served) -> None:
    # Not the fixture's page: here the policy's refusals are errors in the console.
    page = context.new_page()
    response = page.goto(home(wall))
    assert response is not None
    policy = response.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy

    page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.wasRun = true";
          document.body.append(script);
        }"""
    )
    assert page.evaluate("window.wasRun") is None
    refused = page.evaluate("fetch('http://localhost:9/').then(() => 'went out', error => String(error))")
    assert "Failed to fetch" in refused


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 768, 390])
def test_no_rule_of_accessibility_is_broken(chromium: Browser, wall: Served, width: int, scheme: str) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(home(wall))
    wait_for_colour(page, "Wall", grey(40))
    form = page.get_by_role("form", name="Set name")
    form.get_by_role("textbox", name="Name").fill("Q")
    form.get_by_role("button", name="Send").click()
    expect(form.get_by_role("textbox", name="Name")).to_have_attribute("aria-invalid", "true")

    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
    violations = [
        (each["id"], each["help"], [node["html"][:120] for node in each["nodes"]])
        for each in Axe().run(page).response["violations"]
    ]
    assert not violations, json.dumps(violations, indent=1)
    context.close()


def test_the_page_s_heap_does_not_grow(page: Page, wall: Served, request: pytest.FixtureRequest) -> None:
    """30 frames and one command a second, for `--minutes` (default: half a minute)."""
    minutes: float = request.config.getoption("--minutes")
    page.goto(home(wall))
    wait_for_colour(page, "Wall", grey(40))
    slider = page.get_by_role("slider", name="Level", exact=True)
    page.get_by_role("button", name="Play Hum").click()

    # The first third fills the bounded stores: the log, the last latencies.
    heaps = []
    for step in range(9):
        for second in range(max(1, round(minutes * 60 / 9))):
            slider.fill(str((step * 31 + second * 7) % 256))
            page.wait_for_timeout(1000)
        heaps.append(heap(page))
    print("heap, MB:", *(f"{each / 1e6:.2f}" for each in heaps))  # noqa: T201  pytest -rP shows it
    assert max(heaps[6:]) < max(heaps[2:5]) + 1_000_000, heaps
    drawn = page.get_by_role("region", name="Status").get_by_text(re.compile(r"^\d+ fps$")).first.inner_text()
    assert int(drawn.split()[0]) >= 20


def heap(page: Page) -> int:
    """Bytes of JavaScript objects that are in use."""
    page.evaluate("gc()")
    return int(page.evaluate("performance.memory.usedJSHeapSize"))
