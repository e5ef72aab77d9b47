"""The weights with the best held-out score so far, kept beside a training: `runs/x@best`."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from evagen.kernels.sources import BEST
from evagen.training.run import TrainingRun
from evagen.training.sharding import whole_model

SCORE_FILE = "score.json"
"""In the folder of the best weights: `score`, its name, `value`, and the `step` that had it."""
LOWER_IS_BETTER = ("perceptual",)


@contextmanager
def averaged_weights(run: TrainingRun) -> Iterator[None]:
    """The averaged weights in the model, where there is an average: those that the run leaves. Afterwards the trained
    ones are back, to the last bit. For all processes."""
    if run.average is None:
        yield
        return
    with torch.no_grad():
        parameters = list(run.model.parameters())
        trained: list[Tensor] = [parameter.detach().clone() for parameter in parameters]
        try:
            for parameter, average in zip(parameters, run.average.shadow_params):
                parameter.copy_(average)
            yield
        finally:
            for parameter, weights in zip(parameters, trained):
                parameter.copy_(weights)


class BestWeights:
    """Keeps the model in the folder `best` of the run whenever `score` is better than all before, those of an earlier
    start among them. score: psnr, perceptual or motion; None keeps nothing."""

    def __init__(self, run: TrainingRun, score: str | None):
        self.run, self.score = run, score
        self.folder = run.run.out / BEST

    def look(self, scores: dict[str, float], step: int) -> None:
        """scores: by name, as `HeldOutClips.measure` gives them. For all processes, within `averaged_weights`."""
        value = scores.get(f"held_out_{self.score}")
        accelerator = self.run.accelerator
        better = [value is not None and self._is_better(value)]
        if not broadcast_object_list(better)[0]:  # all go by the first, since GPUs do not round alike
            return
        model = whole_model(accelerator, accelerator.unwrap_model(self.run.model))
        if accelerator.is_main_process:
            unfinished = self.folder.with_name(f".{BEST}")
            shutil.rmtree(unfinished, ignore_errors=True)
            model.save_pretrained(unfinished)
            about = {"step": step, "score": self.score, "value": value}
            (unfinished / SCORE_FILE).write_text(json.dumps(about) + "\n")
            shutil.rmtree(self.folder, ignore_errors=True)
            unfinished.rename(self.folder)
        accelerator.wait_for_everyone()

    def _is_better(self, value: float) -> bool:
        found = read_best(self.folder.parent)
        if found is None or found["score"] != self.score:
            return True
        return value < found["value"] if self.score in LOWER_IS_BETTER else value > found["value"]


def read_best(run: Path) -> dict | None:
    """What a run folder says of its best weights; None where it keeps none."""
    path = run / BEST / SCORE_FILE
    return json.loads(path.read_text()) if path.exists() else None
