"""The part of the page where a video goes into tokens and back."""

import tempfile
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from evagen.data.square_clips import iterate_square
from evagen.data.video_writer import join_videos
from evagen.demo import figures, films
from evagen.demo.models import DemoModels
from evagen.demo.rebuild import Wish, rebuild
from evagen.demo.upload import Limits
from evagen.errors import UserError
from evagen.kernels.levels import video_to_frames
from evagen.tokenizer.reward import preference_within

CLIPS = {path.stem: path for path in sorted(Path(str(files("evagen"))).glob("demo/clips/*.mp4"))}
"""The clips that come with the page, by name: of play-throughs that no model was trained on."""
SHOWN_RATES = 15.0, 30.0
"""Frames a second of these clips and of most videos."""
PREFERENCE, RATE = "as a preference asks", "within a rate"
REMEMBERED_USERS = 1000
CAPTION = """<p class="caption">Left: what the model sees. Right: what its tokens give back. Beneath: the tokens of
each block; the one being shown is lit.</p>"""
Shown = tuple[str | None, str, str]
"""A film, numbers and a timeline."""


class RebuildTab:
    """models: by name, the first is shown at first; limits: of uploads."""

    def __init__(self, models: dict[str, DemoModels], limits: Limits):
        self.models, self.limits, self.first = models, limits, next(iter(models))
        self.known = preferences(models.values())
        self._asked: dict[str | None, tuple] = {}

    def build(self, page: gr.Blocks, name: gr.Dropdown) -> None:
        """Puts the tab where the page is being built. name: of the models that are chosen."""
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                gr.HTML("<h4>Take a clip …</h4>", elem_id="pick")
                gallery = gr.Gallery(
                    [(_first_frame(path), clip) for clip, path in CLIPS.items()], show_label=False, columns=4,
                    container=False, allow_preview=False, height="auto", interactive=False, buttons=[],
                    elem_id="clips",
                )  # fmt: skip
                gr.HTML(
                    f"<h4>… or upload a video</h4><small>{self.limits}</small>",
                    elem_id="bring",
                )
                upload = gr.File(show_label=False, height=120, elem_id="upload")
                hold = gr.Radio([PREFERENCE, RATE], value=PREFERENCE, label="How many tokens", elem_id="hold")
                low, high = self.known  # gradio takes no slider of one value
                preference = gr.Slider(
                    low, high if self.has_dial else low + 1, value=preference_within(None, self.known), step=0.05,
                    label="Preference", elem_id="preference", info="left: few tokens, right: best quality",
                    visible=self.has_dial,
                )  # fmt: skip
                least, most = rates(self.models.values())
                rate = gr.Slider(
                    least, most, value=least + (most - least) // 4, step=1, label="Tokens a second", elem_id="rate",
                    info="at most so many on average, as far as the shortest lengths allow", visible=False,
                )  # fmt: skip
            with gr.Column(scale=3, min_width=300):
                film = gr.Video(
                    show_label=False, autoplay=True, loop=True, interactive=False, buttons=["download"],
                    elem_id="film", elem_classes="films",
                )  # fmt: skip
                gr.HTML(CAPTION)
                numbers = gr.HTML(elem_id="numbers")
        bars = gr.HTML(elem_id="timeline")
        source = gr.Textbox(next(iter(CLIPS), ""), visible=False)
        asked = [name, source, upload, hold, preference, rate]
        touched = [source.change, hold.change, preference.change, rate.change, name.change]
        gr.on(
            [page.load, *touched], self.show, asked, [film, numbers, bars], api_name="rebuild",
            trigger_mode="always_last", show_progress="minimal", show_progress_on=film,
        )  # fmt: skip
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        gallery.select(_take_clip, None, [source, upload], **private)
        upload.upload(_take_upload, upload, source, **private)
        gr.on([upload.clear, upload.delete], lambda: next(iter(CLIPS), ""), None, source, **private)
        gr.on(touched, self._ask, asked, None, trigger_mode="multiple", queue=False, **private)
        hold.change(self._only_one, hold, [preference, rate], **private)

    @property
    def has_dial(self) -> bool:
        """Whether there is a preference to choose: routers trained for one, as the paper's are, leave none."""
        low, high = self.known
        return low < high

    def _only_one(self, hold: str) -> tuple[Any, Any]:
        """The slider of what is chosen, and not the other."""
        return gr.Slider(visible=hold == PREFERENCE and self.has_dial), gr.Slider(visible=hold == RATE)

    def show(
        self, name: str, clip: str, upload: str | None, hold: str, preference: float, rate: float, user: gr.Request
    ) -> Iterator[Shown]:
        """What there is after every piece, and the whole at the end; or why there is nothing. Ends early when the same
        user asks for something else."""
        asked = (name, clip, upload, hold, preference, rate)
        self._ask(*asked, user)
        try:
            video = self._video(clip, upload)
            called = video.name if upload else clip
            wish = Wish(preference, rate if hold == RATE else None)
            with tempfile.TemporaryDirectory() as folder:
                parts: list[Path] = []
                pictures: list[str] = []
                for result in rebuild(self.models.get(name, self.models[self.first]), video, wish, self.limits):
                    parts.append(Path(folder) / f"part{len(parts):05d}.mp4")
                    films.write_pair(parts[-1], result)
                    if len(result.lengths) <= figures.MOST_PICTURES:
                        new = len(result.new_lengths)
                        pictures += figures.pictures_of(result.originals, new, result.frames_a_block)
                    numbers, bars = figures.of_rebuilt(result, called), figures.of_blocks(result, pictures)
                    yield str(parts[-1]), numbers, bars
                    if self._asked.get(user.session_hash) != asked:
                        return
                if len(parts) > 1:
                    whole = Path(folder) / "whole.mp4"
                    join_videos(whole, parts)
                    yield str(whole), numbers, bars
        except UserError as error:
            yield None, figures.problem(str(error)), ""

    def _ask(
        self, name: str, clip: str, upload: str | None, hold: str, preference: float, rate: float, user: gr.Request
    ) -> None:
        """Notes what a user wants to see now; of so many users, the oldest go."""
        self._asked.pop(user.session_hash, None)
        self._asked[user.session_hash] = (name, clip, upload, hold, preference, rate)
        while len(self._asked) > REMEMBERED_USERS:
            self._asked.pop(next(iter(self._asked)), None)

    def _video(self, clip: str, upload: str | None) -> Path:
        """An upload goes before a clip, since whoever takes a clip takes the upload away. Raises UserError for
        neither."""
        if upload:
            return Path(upload)
        if clip not in CLIPS:
            raise UserError(f"There is no clip {clip!r}. Take one of {', '.join(CLIPS)}, or upload a video.")
        return CLIPS[clip]


def preferences(models: Iterable[DemoModels]) -> tuple[float, float]:
    """The ends of the slider of preferences, whatever the models; a router refuses in words what it does not know."""
    lows, highs = zip(*(each.router.preference_range for each in models))
    return min(lows), max(highs)


def rates(models: Iterable[DemoModels]) -> tuple[int, int]:
    """The ends of the slider of tokens a second, whatever the models and the video: gradio refuses values that come
    while a slider gets other ends. From the fewest for a clip that comes with the page to the most for a video."""
    fewest, most = zip(*((each.tokens_per_second(fps)[end] for end, fps in enumerate(SHOWN_RATES)) for each in models))
    return min(fewest), max(most)


def _take_clip(event: gr.SelectData) -> tuple[str, None]:
    return list(CLIPS)[event.index], None


def _take_upload(upload: str) -> str:
    """Another text for another file, so that its change is seen."""
    return "/".join(Path(upload).parts[-2:])


def _first_frame(video: Path) -> np.ndarray:
    """uint8 H W 3."""
    return video_to_frames(next(iterate_square(video, films.SHOWN_SIDE))[:, None])[0]
