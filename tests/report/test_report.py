"""The report: one self-contained page that shows exactly what it was given."""

import base64
import copy
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from html_page import Page
from PIL import Image
from tiny_summary import SUMMARY, quality

from evagen.report.clips import sprite_strip
from evagen.report.first_look import write_first_look
from evagen.report.page import ClipPair, GeneratedClip, LossCurve, RealClip, Report, write_report


def decode(uri: str, frames: int) -> np.ndarray:
    """A sprite strip back to `F H W 3`."""
    strip = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))
    return np.stack(np.split(strip, frames, axis=1))


def noise(seed: int, frames: int = 6, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, size, size, 3), dtype=np.uint8)


@pytest.fixture
def report() -> Report:
    pair = [ClipPair(noise(i), noise(i + 10), [64, 4 + i], f"game {i}", 24.5 + i, 0.25 * i) for i in range(3)]
    generated = [GeneratedClip(noise(20 + i), [8, 128 + i], f"game {i % 2}") for i in range(4)]
    return Report(
        title="A run",
        summary=copy.deepcopy(SUMMARY),
        pairs=pair,
        generated=generated,
        real=[RealClip(noise(30), "game 0")],
        lengths_by_class={"cheap": [3.0, 5.0], "dear": [40.0, 30.5]},
        curves=[
            LossCurve(
                "proxy tokenizer",
                [0, 10, 20],
                {"L1": [1.0, 0.1, 0.01], "total": [2, 1, 0.5]},
                [0.1, 0.5, 0.9],
            ),
            LossCurve("router", [0, 10], {"cross-entropy": [6.0, 5.0]}),
        ],
        environment={"seeds": "data 0, training 1"},
        commands={"router": "evagen train router runs/x"},
    )


def read(report: Report, folder) -> tuple[str, Page]:
    html = write_report(report, folder / "deep" / "report.html").read_text(encoding="utf-8")
    return html, Page(html)


def test_page_needs_nothing_but_itself(report, tmp_path):
    html, page = read(report, tmp_path)
    targets = [
        value
        for _, attrs in page.elements
        for name, value in attrs.items()
        if name in ("src", "href", "data", "poster", "action")
    ]
    assert targets
    assert all(target.startswith(("data:", "#")) for target in targets)
    assert not re.search(r"@import|url\((?!#)|https?://", html)


def test_page_is_sound_and_accessible(report, tmp_path):
    html, page = read(report, tmp_path)
    assert html.startswith("<!DOCTYPE html>")
    identifiers = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))
    assert all(attrs.get("alt") for attrs in page.all("img"))
    assert all(attrs.get("scope") in ("row", "col") for attrs in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) == 3
    references = [attrs["href"] for attrs in page.all("use")]
    assert references
    assert {reference[1:] for reference in references} <= set(identifiers)
    # Every colour of the drawings is the style sheet's, so that they follow the colour scheme.
    drawings = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert not re.search(r"#[0-9a-f]{6}\b", drawings)
    assert set(re.findall(r"var\((--[\w-]+)\)", html)) <= set(re.findall(r"(--[\w-]+):", html))


def test_pictures_hold_the_given_frames_exactly(report, tmp_path):
    _, page = read(report, tmp_path)
    shown = [decode(attrs["src"], 6) for attrs in page.all("img")]
    given = [clip for pair in report.pairs for clip in (pair.original, pair.reconstruction)]
    of_class = {name: [c.frames for c in report.generated if c.class_name == name] for name in ("game 0", "game 1")}
    given += [*of_class["game 0"], report.real[0].frames, *of_class["game 1"]]
    np.testing.assert_array_equal(shown, given)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (65, 2, 256)], ids=["pixel", "odd", "longer than WebP allows"])
def test_strips_are_lossless_at_every_size(shape):
    frames = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(sprite_strip(frames), shape[0]), frames)


def test_strips_of_atari_games_are_lossless_and_small():
    ale_py = pytest.importorskip("ale_py")
    roms = pytest.importorskip("ale_py.roms")
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    game = ale_py.ALEInterface()
    game.loadROM(roms.get_rom_path("breakout"))
    screens = []
    for _ in range(16):
        game.act(game.getMinimalActionSet()[1])
        screens.append(np.asarray(Image.fromarray(game.getScreenRGB()).resize((64, 64))))
    frames = np.stack(screens)
    strip = sprite_strip(frames)
    np.testing.assert_array_equal(decode(strip, 16), frames)
    assert len(strip) < frames.nbytes / 20


def test_bars_carry_the_lengths(report, tmp_path):
    html, _ = read(report, tmp_path)
    bars = re.findall(r'<ol class="tokens.*?</ol>', html, flags=re.DOTALL)
    numbers = [[int(n) for n in re.findall(r"<span>(\d+)</span>", bar)] for bar in bars]
    assert numbers == [[64, 4], [64, 5], [64, 6], [8, 128], [8, 130], [8, 129], [8, 131]]
    # Heights are shares of the longest block on the page, so that bars compare across clips.
    shares = [float(share) for share in re.findall(r"--share: ([\d.]+); --at", html)]
    assert shares == pytest.approx([n / 131 for bar in numbers for n in bar], abs=1e-4)
    # Of two blocks the first is lit in the first half of the loop, the second in the second.
    assert re.findall(r"--at: (-[\d.]+)", bars[0]) == ["-1.0000", "-0.5000"]


def test_tables_show_the_numbers_of_the_summary(report, tmp_path):
    _, page = read(report, tmp_path)
    assert page.cells[1:4] == [
        ["untrained generator", "141.3"],
        ["trained generator", "38.42"],
        ["other real clips", "9.871"],
    ]
    assert page.cells[5:7] == [
        ["change from frame to frame, values in [−1, 1]", "0.0123", "0.0246", "50\u202f%"],
        ["share of places that move", "0.0118", "0.0472", "25\u202f%"],
    ]
    assert page.cells[8:] == [
        ["uniform", "16", "19.31", "0.4312", "−0.05"],
        ["uniform", "64", "22.87", "0.2894", "0.21"],
        ["uniform", "256", "24.83", "0.2207", "0.53"],
        ["adaptive (router)", "78.4", "23.41", "0.2641", "0.39"],
        ["router, preference 0.8", "41", "21.90", "0.3220", "0.13"],
        ["final tokenizer", "79.3", "23.97", "0.2502", "0.34"],
        ["final tokenizer, longest uniform", "256", "25.31", "0.2011", "0.60"],
    ]


def test_page_begins_with_clips_and_comes_to_numbers_later(report, tmp_path):
    html, _ = read(report, tmp_path)
    body = html[html.index("<body>") :]
    clips = [found.start() for found in re.finditer('<img class="strip', body)]
    assert max(clips) < body.index('<dl class="tiles">') < body.index("<svg") < body.index("<table>")
    before = re.sub(r"<[^>]*>", "", body[: body.index('<div class="player">')])
    assert report.title in before
    assert not re.search(r"\d", before)


def test_real_clips_are_shown_as_generated_ones_are(report, tmp_path):
    html, _ = read(report, tmp_path)
    (first, _) = re.findall(r'<article class="class">.*?</article>', html, flags=re.DOTALL)
    rows = re.findall(
        r'<p class="label">(.*?)</p>\s*<div class="row">(.*?)</div>\s*(?=<p|</article>)', first, re.DOTALL
    )
    assert [(label, row.count('class="window')) for label, row in rows] == [("generated", 2), ("real", 1)]
    style = re.search(r"<style>.*</style>", html, re.DOTALL)[0]
    assert re.findall(r"\.(?:class|row|real)[^{}]*\{[^}]*--size:\s*([^;]*);", style) == ["var(--size-generated)"]


def test_nothing_lies_over_the_clips_of_a_small_screen(report, tmp_path):
    html, _ = read(report, tmp_path)
    style = re.search(r"<style>.*</style>", html, re.DOTALL)[0]
    assert html.index('<div class="player">') < html.index('<article class="pair">')
    on_large_screens = r"@media \(min-width: 721px\) and \(min-height: \d+px\) \{\s*(\.player \{[^}]*\})\s*\}"
    (sticky,) = re.findall(on_large_screens, style)
    assert "position: sticky" in sticky
    everywhere = re.sub(on_large_screens, "", style)
    assert not re.search(r"position:\s*(sticky|fixed)", everywhere)
    assert re.findall(r"([^{}]*)\{[^}]*position:\s*absolute", everywhere) == ["\n.gantt .track i "]
    assert not re.search(r"(?<![\w-])margin(-top)?:\s*-", everywhere)


def test_every_clip_and_class_has_its_own_numbers(report, tmp_path):
    report.pairs[2].motion = None
    html, _ = read(report, tmp_path)
    about = re.findall(r'<div class="about"><h3>(.*?)</h3><p>(.*?)</p></div>', html)
    assert about == [
        ("game 0", "68 tokens · 24.50 dB · motion 0.00"),
        ("game 1", "69 tokens · 25.50 dB · motion 0.25"),
        ("game 2", "70 tokens · 26.50 dB · motion –"),
        ("game 0", "5 patterns of lengths"),
        ("game 1", "1 pattern of lengths"),
    ]
    assert "A dash stands where nothing moves" in html


def test_motion_has_a_figure_and_what_has_none_is_left_out_of_it(report, tmp_path):
    def figure(html: str) -> str:
        return re.search(r"<figure><figcaption>Motion explained.*?</figure>", html, re.DOTALL)[0]

    def names(drawn: str) -> set[str]:
        return set(re.findall(r"<text[^>]*>([^<]*[a-z][^<]*)</text>", drawn))

    whole = figure(read(report, tmp_path)[0])
    assert "1 is perfect, 0 is a still picture; higher is better" in whole
    assert {"preference 0.8", "final tokenizer"} <= names(whole)
    assert "left out" not in whole
    report.summary["reconstruction"]["further_preferences"][0]["motion"] = None
    partly = figure(read(report, tmp_path)[0])
    assert names(whole) - names(partly) == {"preference 0.8"}
    assert "Points are left out" in partly
    reconstruction = report.summary["reconstruction"]
    for measured in (*reconstruction["uniform"], *(reconstruction[n] for n in ("adaptive", "final", "final_longest"))):
        measured["motion"] = None
    html, page = read(report, tmp_path)
    assert "<svg" not in figure(html)
    assert "Nothing moves" in figure(html)
    assert all(row[-1] == "–" for row in page.cells[8:])


def test_classes_are_sorted_by_cost_and_stages_follow_one_another(report, tmp_path):
    html, page = read(report, tmp_path)
    text = " ".join(page.text)
    assert text.index("dear") < text.index("cheap")
    starts = [float(start) for start in re.findall(r"--start: ([\d.]+)", html)]
    assert starts == pytest.approx([0, 300 / 714.2, 400 / 714.2], abs=1e-4)
    for shown in ("evagen train router runs/x", "data 0, training 1", "11.9 min", "3.4 GB", "not FVD"):
        assert shown in text


def test_odd_names_stay_text(report, tmp_path):
    odd = """<script>alert("x")</script> & 'quote' $a_b$ {{ 7 * 7 }}"""
    report.pairs[0].class_name = report.generated[0].class_name = report.title = report.curves[0].stage = odd
    report.lengths_by_class[odd] = [1.0, 1.0]
    html, page = read(report, tmp_path)
    assert len(page.all("script")) == 1
    assert "<script>alert" not in html
    assert sum(odd in text for text in page.text) >= 6
    assert any(odd in (attrs["alt"] or "") for attrs in page.all("img"))


def test_smallest_report(report, tmp_path):
    tiny = noise(1, frames=1, size=2)
    report.summary["reconstruction"]["uniform"] = [quality(16, 19.0, 0.4, 0.1)]
    report.summary["reconstruction"]["adaptive"]["lengths_by_block"] = [16.0]
    report.summary["reconstruction"]["further_preferences"] = []
    report = Report(
        title="Small",
        summary=report.summary,
        pairs=[ClipPair(tiny, tiny, [16], "one", float("inf"), None)],
        generated=[GeneratedClip(tiny, [16], "one")],
        real=[],
        lengths_by_class={"one": [16.0]},
    )
    _, page = read(report, tmp_path)
    assert len(page.all("img")) == 3
    assert "out of range" in " ".join(page.text)


def test_missing_numbers_and_wrong_frames_are_refused(report, tmp_path):
    del report.summary["generation"]["frechet"]
    with pytest.raises(KeyError, match="frechet"):
        write_report(report, tmp_path / "report.html")
    with pytest.raises(ValueError, match="uint8 of shape F H W 3, not float64"):
        RealClip(np.zeros((2, 4, 4, 3)), "x")
    with pytest.raises(ValueError, match="should have one shape"):
        ClipPair(noise(0, frames=2), noise(0, frames=3), [1], "x", 1.0, 0.5)
    with pytest.raises(ValueError, match="positive token count"):
        GeneratedClip(noise(0), [], "x")
    with pytest.raises(ValueError, match="'L1' has 1 values for 2 steps"):
        LossCurve("router", [0, 1], {"L1": [1.0]})


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PROBE = """
<script>
const early = document.getAnimations().length;
addEventListener("load", () => setTimeout(() => {
  const moving = document.getAnimations();
  const starts = new Set(moving.map(animation => animation.startTime));
  const slider = document.querySelector("#seek input");
  slider.value = 4;
  slider.dispatchEvent(new Event("input"));
  setTimeout(() => {
    const frames = [...document.querySelectorAll(".window")].map(each => {
      const [window_, strip] = [each, each.firstElementChild].map(element => element.getBoundingClientRect());
      return Math.round((window_.left - strip.left) / window_.width * 1000) / 1000;
    });
    const lit = getComputedStyle(document.documentElement).getPropertyValue("--lit");
    const probe = document.body.appendChild(document.createElement("i"));
    probe.style.color = lit;
    const colour = getComputedStyle(probe).color;
    const blocks = [...document.querySelectorAll(".pair .tokens")].map(bar =>
      [...bar.children].findIndex(block => getComputedStyle(block).color === colour));
    document.title = JSON.stringify({early, moving: moving.length, starts: starts.size, blocks, frames,
      overflow: document.body.scrollWidth > innerWidth});
  }, 200);
}, 600));</script><div id="end">"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_in_a_browser_all_clips_move_as_one(report, tmp_path):
    """One of them has half as many frames as the others, and begins again before they do."""
    report.generated[-1] = GeneratedClip(noise(23, frames=3), [8, 131], "game 1")
    path = write_report(report, tmp_path / "report.html")
    # None moves before the page has arrived; then 11 strips and 7 bars of two blocks do, as one.
    # Frame 4 of 6 lies in the second block; it is the second time for frame 1 of 3.
    frames = [4] * 10 + [1]
    assert _probed(path) == {
        "early": 0, "moving": 25, "starts": 1, "blocks": [1, 1, 1], "frames": frames, "overflow": False,
    }  # fmt: skip


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_in_a_browser_clips_of_a_first_look_move(tmp_path):
    clips = [GeneratedClip(noise(number), [8, 4], "game") for number in range(2)]
    path = write_first_look(tmp_path / "first_look.html", "evagen/games", clips, 1.0, "# games")
    found = _probed(path)
    assert (found["early"], found["moving"], found["frames"]) == (0, 2 + 4, [4, 4])


def _probed(path: Path) -> dict:
    """What `PROBE` finds on a page whose slider it moves."""
    path.write_text(path.read_text(encoding="utf-8").replace('<div id="end">', PROBE), encoding="utf-8")
    run = subprocess.run(
        [
            *[CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"],
            *["--disable-background-networking", "--disable-component-update", "--disable-sync"],
            *["--enable-logging=stderr", "--virtual-time-budget=3000"],
            *[f"--user-data-dir={path.parent / 'profile'}", "--dump-dom", path.as_uri()],
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "CONSOLE" not in run.stderr
    return json.loads(re.search(r"<title>(.*?)</title>", run.stdout)[1])
