# SPDX-License-Identifier: Apache-2.0
"""The page of `lawm-hf play` in a browser, used as a visitor would.

Needs Gradio (the extra `play`), Selenium, and Chromium with its driver:
`apt-get install chromium chromium-driver` and `uv pip install selenium`. `LAWM_SHOTS=FOLDER` keeps
pictures of the page, from which those of `docs/play.md` are made.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

import lawm_hf
from lawm_hf.play.run import open_runs
from lawm_hf.play.space import write_space
from lawm_hf.play.upload import MAX_BYTES

pytestmark = pytest.mark.slow
pytest.importorskip("mujoco")
pytest.importorskip("gradio")
SHOTS = os.environ.get("LAWM_SHOTS")
WAIT_S = 120


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(command: list[str], port: int, **options) -> subprocess.Popen:
    """A server, once it answers."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    ends = time.monotonic() + 2 * WAIT_S
    while time.monotonic() < ends and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
            return process
        except OSError:
            time.sleep(0.3)
    process.kill()
    raise AssertionError(process.communicate()[0].decode()[-3000:])


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    free = free_port()
    command = [sys.executable, "-m", "lawm_hf.cli", "play", "--port", str(free)]
    process = start(command, free, cwd=tmp_path_factory.mktemp("play"))
    yield free
    process.terminate()
    process.wait(30)


@pytest.fixture(scope="module")
def browser(port):
    webdriver = pytest.importorskip("selenium.webdriver")
    paths = shutil.which("chromium"), shutil.which("chromedriver")
    if not all(paths):
        pytest.skip("needs Chromium and its driver")
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    options.add_argument("--window-size=1360,1180")
    service = pytest.importorskip("selenium.webdriver.chrome.service").Service(paths[1])
    driver = webdriver.Chrome(options=options, service=service)
    driver.get(f"http://127.0.0.1:{port}/")
    yield Page(driver)
    driver.quit()


class Page:
    """What a visitor does, by CSS selectors."""

    def __init__(self, driver):
        self.driver = driver
        self.until(lambda: self.all("#yours .film"))

    def all(self, selector: str):
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str):
        return self.until(lambda: next((e for e in self.all(selector) if e.is_displayed()), None))

    def html(self, selector: str) -> str:
        return self.one(selector).get_attribute("innerHTML")

    def until(self, look):
        ends = time.monotonic() + WAIT_S
        while time.monotonic() < ends:
            try:
                if found := look():
                    return found
            except Exception as error:
                if "stale" not in str(error).lower():
                    raise
            time.sleep(0.01)
        raise AssertionError(f"{look} has not come true; the page says {self.text()[-800:]}")

    def text(self) -> str:
        return self.driver.execute_script("return document.body.innerText")

    def tab(self, name: str) -> None:
        tabs = [b for b in self.all("button[role=tab]") if b.text == name]
        tabs[0].click()

    def picture(self, selector: str) -> str:
        """The PNG that a film shows."""
        return self.html(selector).split("base64,")[1].split(")")[0]

    def drag(self, slider: str, value: float) -> float:
        """Move a slider as the mouse does, which says `input` while it is held.

        Returns:
            Milliseconds until the third film was another.
        """
        self.driver.set_script_timeout(WAIT_S)
        return self.driver.execute_async_script(
            "const [name, value, done] = arguments, begun = performance.now();"
            "const slider = document.querySelector(name + ' input[type=range]');"
            "const set = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set;"
            "const film = () => document.querySelector('#yours .strip')?.style.backgroundImage;"
            "const before = film();"
            "const look = () => film() && film() !== before"
            "  ? done(performance.now() - begun) : requestAnimationFrame(look);"
            "set.call(slider, value); slider.dispatchEvent(new Event('input', {bubbles: true}));"
            "look();",
            slider,
            str(value),
        )

    def write(self, selector: str, words: str, keys: str = "") -> None:
        field = self.one(selector)
        control, enter = "\ue009", "\ue007"
        field.send_keys(control + "a")
        field.send_keys(words + keys + enter)

    def shoot(self, name: str) -> None:
        if SHOTS:
            Path(SHOTS).mkdir(parents=True, exist_ok=True)
            for close in self.all(".toast-close"):  # an error that another test has caused
                close.click()
            time.sleep(1)
            self.driver.save_screenshot(str(Path(SHOTS, f"{name}.png")))


def test_a_slider_changes_the_third_film_and_a_button_takes_it_back(browser):
    own, before = browser.picture("#own"), browser.picture("#yours")
    assert own == before
    times = [browser.drag("#direction-1", value) for value in (2.5, -2.5, 1.5, -1.5, 2.0, -2.0) * 3]
    assert browser.picture("#yours") != before
    assert browser.picture("#own") == own
    assert "moved by you" in browser.one("#yours").text
    if SHOTS:
        Path(SHOTS, "milliseconds.json").write_text(json.dumps([round(t) for t in times]))
    browser.shoot("imagine")
    browser.one("#back").click()
    browser.until(lambda: browser.picture("#yours") == own)


def test_another_instruction_changes_the_third_film(browser):
    before, words = browser.picture("#yours"), browser.one("#video").text
    other = "go to the blue cube" if "blue" not in words else "go to the red cube"
    browser.write("#instruction input", other)
    browser.until(lambda: browser.picture("#yours") != before)
    assert f"told “{other}”" in browser.one("#yours").text
    browser.write("#instruction input", "x" * 301)
    browser.until(lambda: "1 to 300 characters" in browser.text())


def test_a_click_on_another_clip_shows_it_and_its_neighbours(browser):
    before, near = browser.picture("#video"), browser.html("#nearest")
    browser.all("#pick-clip .thumbnail-item")[7].click()
    browser.until(lambda: browser.picture("#video") != before)
    browser.until(lambda: browser.html("#nearest") != near)
    assert browser.picture("#own") == browser.picture("#yours")


def test_latents_go_to_another_first_frame_and_home(browser):
    own = browser.picture("#own")
    opened = [b for b in browser.all("button.label-wrap") if "Start somewhere" in b.text]
    opened[0].click()
    browser.one("#pick-start .thumbnail-item")
    browser.all("#pick-start .thumbnail-item")[3].click()
    browser.until(lambda: browser.picture("#yours") != own)
    assert "from the first frame of" in browser.one("#yours").text
    assert browser.picture("#own") == own
    browser.shoot("transfer")
    browser.one("#home").click()
    browser.until(lambda: browser.picture("#yours") == own)
    opened[0].click()


def test_a_damaged_upload_gets_a_sentence_and_a_sound_one_is_shown(browser, tmp_path):
    from test_play import write_ramp

    before = browser.picture("#video")
    opened = [b for b in browser.all("button.label-wrap") if "bring a video" in b.text]
    opened[0].click()
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(b"no video at all" * 50)
    browser.one("#upload")
    browser.all("#upload input[type=file]")[0].send_keys(str(damaged))
    browser.until(lambda: "damaged.mp4" in browser.one("#upload").text.replace("\n", ""))
    browser.one("#read-upload").click()
    browser.until(lambda: "damaged.mp4 cannot be used" in browser.text())
    assert "Traceback" not in browser.text()
    assert browser.picture("#video") == before
    browser.shoot("refused")
    browser.all("#upload button[aria-label=Clear], #upload button[aria-label=Remove]")[0].click()
    huge = tmp_path / "huge.mp4"
    with huge.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    browser.until(lambda: browser.all("#upload input[type=file]"))
    browser.all("#upload input[type=file]")[0].send_keys(str(huge))
    browser.until(lambda: "maximum allowed size" in browser.text())
    assert "Traceback" not in browser.text()
    sound = write_ramp(tmp_path / "sound.mp4")
    browser.until(lambda: browser.all("#upload input[type=file]"))
    browser.all("#upload input[type=file]")[0].send_keys(str(sound))
    browser.until(lambda: "sound.mp4" in browser.one("#upload").text.replace("\n", ""))
    browser.one("#words textarea, #words input").send_keys("go to the red cube")
    browser.one("#read-upload").click()
    browser.until(lambda: browser.picture("#video") != before)
    assert "sound.mp4" in browser.one("#video").text
    opened[0].click()


def test_the_tabletop_is_driven_by_policy_keys_and_mouse(browser):
    browser.tab("Drive")

    def address() -> str:
        return browser.one("#table img").get_attribute("src")

    browser.until(lambda: "step 0" in browser.one("#status").text)
    before = address()
    browser.one("#key-policy").click()
    browser.until(lambda: "step 1," in browser.one("#status").text and address() != before)
    browser.shoot("drive")
    before = address()
    body = browser.one("body")
    body.send_keys("\ue014")  # the arrow to the right
    browser.until(lambda: "step 2," in browser.one("#status").text and address() != before)
    browser.one("#again").click()
    browser.until(lambda: "step 0" in browser.one("#status").text)
    browser.one("#play").click()
    browser.until(lambda: "step 6" in browser.one("#status").text or "solved" in browser.text())
    browser.until(lambda: any(w in browser.one("#status").text for w in ("solved", "step 20")))
    browser.one("#next").click()
    browser.until(lambda: "scene 2: step 0" in browser.one("#status").text)
    browser.one("#table img").click()  # its middle
    browser.until(lambda: "step 0" not in browser.one("#status").text)


def test_a_run_shows_curves_strips_and_success(browser):
    browser.tab("Run")
    browser.until(lambda: browser.all("#loss canvas, #loss svg"))
    browser.until(lambda: browser.all("#health canvas, #health svg"))
    assert len(browser.all("#strips img")) >= 3
    browser.shoot("run")
    browser.one("#run input").click()
    options = browser.until(lambda: browser.all("ul[role=listbox] li"))
    next(o for o in options if "finetuning" in o.text).click()
    browser.until(lambda: "interval" in browser.text() and "%" in browser.one("#results").text)
    browser.shoot("success")


def test_the_page_asks_no_other_machine(browser, port):
    found = browser.driver.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    hosts = {name.split("/")[2] for name in found if "://" in name}
    assert hosts <= {f"127.0.0.1:{port}"}


def test_it_listens_to_this_machine_alone(port):
    own = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False).stdout
    for address in own.split():
        if ":" not in address:
            with socket.socket() as caller:
                caller.settimeout(2)
                assert caller.connect_ex((address, port)) != 0, address


def test_a_space_starts_with_nothing_but_its_own_folder(tmp_path):
    folder = write_space(tmp_path / "space", *open_runs())
    free = free_port()
    installed = str(Path(lawm_hf.__file__).parent.parent)
    paths = [p for p in sys.path if p and Path(p).resolve() != Path(installed).resolve()]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(folder), *paths]),
        "GRADIO_SERVER_PORT": str(free),
        "GRADIO_SERVER_NAME": "127.0.0.1",
    }
    process = start([sys.executable, "app.py"], free, cwd=folder, env=environment)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{free}/config", timeout=30) as answer:
            assert json.load(answer)["title"].startswith("LAWM")
    finally:
        process.terminate()
        process.wait(30)
