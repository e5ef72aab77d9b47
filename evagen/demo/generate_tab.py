"""The part of the page where a class becomes clips."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from evagen.demo import figures, films
from evagen.demo.generate import MOST_CLIPS, generate
from evagen.demo.models import DemoModels
from evagen.demo.rebuild_tab import Shown
from evagen.errors import UserError
from evagen.sampling.clips import usual_options

FREE, FORCED, CAPPED = "as the model chooses", "set for each block", "bounded for a clip"


class GenerateTab:
    """models: by name, the first is shown at first."""

    def __init__(self, models: dict[str, DemoModels]):
        self.models, self.first = models, next(iter(models))
        self.most_blocks = max(each.generated_blocks for each in models.values())

    def build(self, name: gr.Dropdown) -> None:
        """Puts the tab where the page is being built. name: of the models that are chosen."""
        first = self.first
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                kind = gr.Dropdown(**self._classes(first), label="Class", elem_id="class")
                count = gr.Slider(1, MOST_CLIPS, value=2, step=1, label="Clips", elem_id="count")
                seed = gr.Number(0, precision=0, minimum=0, maximum=2**31, label="Seed", elem_id="seed")
                guidance = gr.Slider(
                    1, 4, value=self._guidance(first), step=0.25, label="Guidance",
                    info="1: none; more: closer to the class", elem_id="guidance",
                )  # fmt: skip
                mode = gr.Radio([FREE, FORCED, CAPPED], value=FREE, label="Tokens of the blocks", elem_id="mode")
                with gr.Row(visible=False, elem_id="forced") as row:
                    forced = [
                        gr.Dropdown(**self._block(first, number), label=f"Block {number + 1}", min_width=90)
                        for number in range(self.most_blocks)
                    ]
                cap = gr.Slider(
                    **self._cap(first), step=1, label="Tokens of a clip, at most", visible=False, elem_id="cap"
                )
                button = gr.Button("Generate", variant="primary", elem_id="generate")
            with gr.Column(scale=3, min_width=300):
                film = gr.Video(
                    show_label=False, autoplay=True, loop=True, interactive=False, buttons=["download"],
                    elem_id="generated", elem_classes="films",
                )  # fmt: skip
                gr.HTML(
                    '<p class="caption">Beneath each clip: the tokens of its blocks; the one being shown is lit.</p>'
                )
                numbers = gr.HTML(elem_id="costs")
        bars = gr.HTML(elem_id="bars")
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        mode.change(_only_one, mode, [row, cap], **private)
        button.click(
            self.show, [name, kind, count, seed, guidance, mode, cap, *forced], [film, numbers, bars],
            api_name="generate", show_progress="minimal", show_progress_on=film,
        )  # fmt: skip
        name.change(self._dials, name, [kind, guidance, cap, *forced], **private)

    def show(
        self,
        name: str,
        kind: str | None,
        count: float,
        seed: float | None,
        guidance: float,
        mode: str,
        cap: float,
        *forced: int,
    ) -> Iterator[Shown]:
        """Clips and what they cost, or why there are none. seed: None where the field is empty, which is 0; forced:
        tokens of each block, 0 where it is free."""
        models = self.models.get(name, self.models[self.first])
        lengths = [length or None for length in forced[: models.generated_blocks]] if mode == FORCED else None
        most = int(cap) if mode == CAPPED else None
        try:
            made = generate(models, kind or None, int(count), int(seed or 0), guidance, lengths, most)
        except UserError as error:
            yield None, figures.problem(str(error)), ""
            return
        with tempfile.TemporaryDirectory() as folder:
            film = Path(folder) / "generated.mp4"
            films.write_row(film, made)
            yield str(film), figures.of_generated(made, kind or name), figures.of_clips(made)

    def _dials(self, name: str) -> list[Any]:
        """Of other models."""
        blocks = [gr.Dropdown(**self._block(name, number)) for number in range(self.most_blocks)]
        dials = [gr.Slider(value=self._guidance(name)), gr.Slider(**self._cap(name))]
        return [gr.Dropdown(**self._classes(name)), *dials, *blocks]

    def _guidance(self, name: str) -> float:
        generator = self.models[name].generator
        return usual_options(generator).guidance if generator else 1

    def _classes(self, name: str) -> dict[str, Any]:
        known = self.models[name].class_names
        return {"choices": known, "value": known[0] if known else None, "visible": bool(known)}

    def _block(self, name: str, number: int) -> dict[str, Any]:
        models = self.models[name]
        choices = [("free", 0), *((str(level), level) for level in models.levels)]
        return {"choices": choices, "value": 0, "visible": number < models.generated_blocks}

    def _cap(self, name: str) -> dict[str, Any]:
        least, most = self.models[name].tokens_of_a_clip
        return {"minimum": least, "maximum": max(most, least + 1), "value": most}  # gradio takes no slider of one value


def _only_one(mode: str) -> tuple[Any, Any]:
    """What is chosen, and not the other."""
    return gr.Row(visible=mode == FORCED), gr.Slider(visible=mode == CAPPED)
