"""The weights with the best held-out score so far, kept beside a training: `runs/x@best`."""

import json
import math
import shutil
from pathlib import Path

from accelerate.utils import broadcast_object_list
from diffusers.models.modeling_utils import ModelMixin

from evagen.kernels.files import atomic_folder
from evagen.kernels.sources import BEST
from evagen.training.failures import where_room
from evagen.training.run import TrainingRun

SCORE_FILE = "score.json"
"""In the folder of the best weights: `score`, its name, `value`, and the `step` that had it."""
LOWER_IS_BETTER = ("perceptual", "loss")


class BestWeights:
    """Keeps the model in the folder `best` of the run whenever `score` is better than all before, those of an earlier
    start among them. score: psnr, perceptual, motion or loss; None keeps nothing."""

    def __init__(self, run: TrainingRun, score: str | None):
        self.run, self.score = run, score
        self.folder = run.run.out / BEST
        self._earlier = self.folder.with_name(f".{BEST}.earlier")
        if run.accelerator.is_main_process:  # a process may have been killed while it wrote better ones, …
            for unfinished in run.run.out.glob(f".{BEST}.*-*"):
                shutil.rmtree(unfinished, ignore_errors=True)
            if self._earlier.exists() and not self.folder.exists():  # … or before these stood in their place
                self._earlier.rename(self.folder)

    def look(self, scores: dict[str, float], step: int) -> None:
        """scores: by name, as a look gives them. For all processes."""
        if self.score is None:
            return
        value = scores.get(f"held_out_{self.score}")
        accelerator = self.run.accelerator
        better = [value is not None and math.isfinite(value) and self._is_better(value)]
        if not broadcast_object_list(better)[0]:  # all go by the first, since GPUs do not round alike
            return
        with self.run.model_so_far() as model:
            if accelerator.is_main_process:
                about = {"step": step, "score": self.score, "value": value}
                where_room(f"the best weights, of step {step}", lambda: self._write(model, about))
        accelerator.wait_for_everyone()

    def _write(self, model: ModelMixin, about: dict) -> None:
        with atomic_folder(self.folder) as unfinished:
            model.save_pretrained(unfinished)
            (unfinished / SCORE_FILE).write_text(json.dumps(about) + "\n", encoding="utf-8")
            if self.folder.exists():
                shutil.rmtree(self._earlier, ignore_errors=True)
                self.folder.rename(self._earlier)
        shutil.rmtree(self._earlier, ignore_errors=True)

    def _is_better(self, value: float) -> bool:
        found = read_best(self.folder.parent)
        if found is None or found["score"] != self.score:
            return True
        return value < found["value"] if self.score in LOWER_IS_BETTER else value > found["value"]


def read_best(run: Path) -> dict | None:
    """What a run folder says of its best weights; None where it keeps none."""
    path = run / BEST / SCORE_FILE
    return json.loads(path.read_bytes()) if path.exists() else None
