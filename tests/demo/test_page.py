"""The page in a real browser, and with several users at once."""

import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import tiny_router
from typer.testing import CliRunner
from video_fixtures import moving_frames, write_sound

from evagen import cli
from evagen.data.video_writer import write_video
from evagen.demo import command
from evagen.demo.upload import Limits
from evagen.errors import UserError

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE = 60_000  # milliseconds; the machine may be busy


@pytest.fixture(scope="module")
def address(models) -> Iterator[str]:
    """Of a page with tiny models."""
    pytest.importorskip("gradio", reason="the page needs gradio")
    from evagen.demo.page import build_page, kept_files, launch

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    limits = Limits(max_seconds=5, max_megabytes=0.5)
    with kept_files():
        page = build_page(models, limits)
        yield launch(page, limits, "127.0.0.1", port, wait=False)
        page.close(verbose=False)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    sync_api = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def page(browser, address) -> Iterator:
    """Open in the browser, its first result shown. `page.foreign`: what it asked of other hosts, in vain."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.foreign = []

    def only_ours(route) -> None:
        if route.request.url.startswith((address, "data:", "blob:")):
            return route.continue_()
        page.foreign.append(route.request.url)
        return route.abort()

    page.route("**/*", only_ours)
    page.goto(address)
    page.locator("#numbers .numbers[data-done=true]").wait_for()
    yield page
    page.close()


def number(page, name: str, where: str = "#numbers") -> str:
    return page.locator(f'{where} [data-name="{name}"]').inner_text()


def wait_for(page, where: str, text: str) -> None:
    page.locator(where).get_by_text(text).first.wait_for()


def bring(page, file: Path) -> None:
    """Uploads a file, after the one before it has been taken away."""
    if page.locator("#upload [aria-label='Clear'], #upload [aria-label='Remove this file']").count():
        page.locator("#upload [aria-label='Clear'], #upload [aria-label='Remove this file']").first.click()
    page.locator("#upload input[type=file]").set_input_files(str(file))


def test_a_clip_is_chosen_and_costs_what_the_slider_says(page):
    page.get_by_role("button", name="Thumbnail 3 of 4").click()
    wait_for(page, "#numbers", "Frostbite")
    assert float(number(page, "PSNR").split()[0]) > 0
    page.get_by_label("within a rate").check()
    slider = page.locator("#rate input[type=range]")
    slider.wait_for()
    slider.press("Home")
    wait_for(page, "#timeline", "16 blocks, 64 tokens")  # the shortest lengths everywhere, in two tiles
    assert number(page, "tokens") == "64"
    assert page.locator("#timeline .block b").all_inner_texts() == ["4"] * 16
    slider.press("End")
    page.wait_for_function("Number(document.querySelector('#numbers [data-name=\"tokens\"]').innerText) > 64")
    page.wait_for_function("document.querySelector('#film video').videoWidth > 200")


def test_videos_are_uploaded_good_and_bad(page, tmp_path):
    write_video(tmp_path / "good.mp4", moving_frames(60, 48, 64), 25)
    write_sound(tmp_path / "sound.wav")
    write_video(tmp_path / "long.mp4", moving_frames(60, 48, 64), 10)
    (tmp_path / "large.mp4").write_bytes(bytes(600_000))
    bring(page, tmp_path / "good.mp4")
    wait_for(page, "#numbers", "good.mp4")
    page.locator("#numbers .numbers[data-done=true]").wait_for()
    assert page.locator("#timeline .block").count() == 16  # the last clip is filled up
    page.get_by_label("within a rate").check()
    page.locator("#rate input[type=range]").press("Home")
    wait_for(page, "#timeline", "16 blocks, 64 tokens")
    page.locator("#upload").get_by_label("Clear").first.click()
    wait_for(page, "#numbers", "Boxing")  # the first clip, as at the beginning
    bring(page, tmp_path / "sound.wav")
    wait_for(page, "#numbers [role=alert]", "sound.wav has no picture")
    bring(page, tmp_path / "long.mp4")
    wait_for(page, "#numbers [role=alert]", "long.mp4 is too long: 6.0 seconds")
    bring(page, tmp_path / "large.mp4")
    wait_for(page, "body", "exceed the maximum allowed size")
    page.get_by_role("button", name="Thumbnail 4 of 4").click()
    wait_for(page, "#numbers", "Skiing")


def test_a_class_is_generated_with_forced_lengths(page):
    page.get_by_role("tab", name="Generate").click()
    page.get_by_label("Seed").fill("")  # which is 0
    page.locator("#generate").click()
    wait_for(page, "#costs", "Boxing")
    assert page.locator("#bars .timeline").count() == 2  # clips
    page.get_by_label("set for each block").click()
    for label, tokens in (("Block 1", "8"), ("Block 2", "2")):
        block = page.get_by_label(label)
        block.click()
        options = page.locator(f"#{block.get_attribute('aria-controls')}")
        options.get_by_role("option", name=tokens, exact=True).click()
    page.locator("#generate").click()
    wait_for(page, "#bars", "Clip 1: 2 blocks, 10 tokens")
    wait_for(page, '#costs [data-name="tokens a clip"]', "10")


def test_another_model_is_chosen(page):
    page.get_by_role("combobox", name="Model").click()
    page.get_by_role("option", name="memory").click()
    page.get_by_label("Class").wait_for(state="hidden")
    page.locator("#generate").click()
    wait_for(page, "#costs [role=alert]", "memory has no generator")
    page.get_by_role("tab", name="Rebuild a video").click()
    page.get_by_role("button", name="Thumbnail 2 of 4").click()
    wait_for(page, "#numbers", "Frogger")
    page.locator("#numbers .numbers[data-done=true]").wait_for()
    told = page.locator(".toast-body").all_inner_texts()  # what gradio says when something goes wrong
    assert [text for text in told if "allowed size" not in text] == []


def test_nothing_is_asked_of_other_hosts(page):
    assert page.foreign == []


def test_it_fits_a_phone(browser, address):
    phone = browser.new_page(viewport={"width": 390, "height": 844})
    phone.goto(address)
    phone.locator("#numbers .numbers").wait_for(timeout=PATIENCE)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    phone.close()


def test_five_users_at_once_get_what_one_would(address, pipelines):
    from gradio_client import Client

    def use(_: int) -> tuple:
        client = Client(address, verbose=False, analytics_enabled=False)
        shown = client.predict("clips", "Frogger", None, "as a preference asks", 1.2, 20, api_name="/rebuild")
        made = client.predict("clips", "Skiing", 2, 1, 1, "as the model chooses", 16, 0, 0, api_name="/generate")
        return shown[1:], made[2]

    alone = use(0)
    assert "PSNR" in alone[0][0]
    assert "Clip 2" in alone[1]
    with ThreadPoolExecutor(5) as users:
        assert list(users.map(use, range(5))) == [alone] * 5


def test_numbers_follow_the_sliders_whoever_moves_them(models):
    """Also gradio, which brings back a number that was typed beyond the ends."""
    pytest.importorskip("gradio", reason="the page needs gradio")
    from evagen.demo.page import build_page

    config = build_page(models, Limits()).config
    (rebuild,) = (each for each in config["dependencies"] if each["api_name"] == "rebuild")
    followed = {component for component, event in rebuild["targets"] if event == "change"}
    sliders = {each["id"] for each in config["components"] if each["props"].get("elem_id") in ("preference", "rate")}
    assert len(sliders) == 2
    assert sliders <= followed


def test_a_router_of_one_preference_leaves_no_slider_for_it(models):
    """As the paper's are: gradio takes no slider of one value."""
    pytest.importorskip("gradio", reason="the page needs gradio")
    from evagen.demo.page import build_page

    router = tiny_router(preference_range=(1.2, 1.2))
    for both, shown in ((models, True), ({"one": replace(models["clips"], router=router)}, False)):
        components = build_page(both, Limits()).config["components"]
        (slider,) = (each["props"] for each in components if each["props"].get("elem_id") == "preference")
        assert (slider["value"], slider["visible"]) == (1.2, shown)


def test_the_models_in_the_box_are_told_by_what_they_know(models):
    pytest.importorskip("gradio", reason="the page needs gradio")
    from evagen.demo.page import build_page

    offered = {"evagen/natural": models["clips"], "mine": models["clips"]}
    components = build_page(offered, Limits()).config["components"]
    (choice,) = (each["props"] for each in components if each["props"].get("elem_id") == "model")
    assert list(map(tuple, choice["choices"])) == [
        ("evagen/natural: videos of cameras and films", "evagen/natural"),
        ("mine", "mine"),
    ]
    assert choice["value"] == "evagen/natural"


# The command


def test_a_port_that_is_taken_is_told_before_models_are_loaded():
    pytest.importorskip("gradio", reason="the page needs gradio")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of 127.0.0.1 .* Give another --port"):
            command.demo(model=["nowhere"], host="127.0.0.1", port=port)


def test_without_gradio_it_says_what_to_type(monkeypatch):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -c constraints\.txt -e '\.\[page\]'"):
        command.demo()


def test_the_help_has_an_example():
    result = CliRunner().invoke(cli.app, ["demo", "--help"])
    assert "evagen demo --model" in result.output
