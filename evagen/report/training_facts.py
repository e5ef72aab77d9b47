"""What a run folder tells of a training, for people who did not see it: from its `config.yaml` and `metrics.jsonl`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from evagen.report.findings import format_duration
from evagen.training.checkpoints import newest_state
from evagen.training.metrics import iterate_metrics

Facts = dict[str, str]
COMMANDS = {"tokenizer": "train-tokenizer", "router": "train-router", "generator": "train-generator"}
MADE_FROM = ("record", "corpus")
"""Keys of configs that name the run folder which the training data came from."""
HELD_OUT, READ = "held_out_", ("step", "clips_per_second")
NAMED = {
    "psnr": "PSNR, dB", "motion": "motion explained", "percentile": "percentile of the reward",
    "loss": "loss, nats a token", "content_loss": "loss of content tokens", "length_loss": "loss of length tokens",
}  # fmt: skip
"""Of what logs call held_out_…, what is said better."""


def training_facts(part: str, run: Path, step: int | None = None) -> Facts:
    """Names and values of the training of a tokenizer, a router or a generator (`part`); empty for a folder that is no
    run. step: of the snapshot in question, None for the end."""
    if not (run / "config.yaml").exists() or not (run / "metrics.jsonl").exists():
        return {}
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    lines = [_read(line) for line in iterate_metrics(run) if step is None or line["step"] <= step]
    optimizer = config.get("optimizer")
    if not optimizer or not lines:
        return {}
    trained = int(lines[-1]["step"])
    facts = {"command": f"`evagen {COMMANDS[part]}`"}
    if data := _data_of(config, run):
        facts["data"] = describe_data(data)
    facts["steps"] = f"{trained:,}" + (f" of {optimizer['steps']:,}" if trained < optimizer["steps"] else "")
    batch = batch_of(config, run)
    clips = batch if optimizer.get("batch_size") else 0
    facts["batch"] = f"{clips} clips" if clips else f"{batch:,} tokens"
    facts["optimiser"] = f"{optimizer['matrices']}, learning rate {optimizer['learning_rate']:g}"
    facts["seed"] = str(config["run"]["seed"])
    if start := config.get("start_from"):
        facts["started from"] = Path(str(start)).name
    if clips and (seconds := seconds_of(lines, clips)):
        facts["time"] = format_duration(seconds)
    return facts | last_scores(lines)


def _read(line: Mapping[str, float]) -> dict[str, float]:
    """What of a line of the log is looked at."""
    return {name: line[name] for name in line if name in READ or name.startswith(HELD_OUT)}


def batch_of(config: Mapping[str, Any], run: Path) -> int:
    """Clips of a step, or tokens where batches are measured in these: of all processes where a checkpoint says how many
    they were, or else of one."""
    if state := newest_state(run):
        return state.manifest.batch
    optimizer = config["optimizer"]
    return (optimizer.get("batch_size") or optimizer.get("tokens_per_batch") or 0) * optimizer.get("accumulation", 1)


def seconds_of(lines: Sequence[dict[str, float]], clips_a_step: int) -> float:
    """What the logged steps took, from the clips per second of each line; without the time between them, in which
    nothing was trained. Clips are those of all processes."""
    steps = [line["step"] for line in lines]
    taken = [later - earlier for earlier, later in zip([0, *steps], steps)]
    rates = [line.get("clips_per_second", 0) for line in lines]
    return sum(clips_a_step * count / rate for count, rate in zip(taken, rates) if rate > 0)


def last_scores(lines: Sequence[dict[str, float]]) -> Facts:
    """The last value of all that was measured on clips held out of the training."""
    last = {name: value for line in lines for name, value in line.items() if name.startswith(HELD_OUT)}
    return {f"held-out {NAMED.get(name := key.removeprefix('held_out_'), name)}": f"{last[key]:.4g}" for key in last}


def describe_data(data: dict[str, Any]) -> str:
    """A data set in a few words. Folders are told by their last names: the rest is somebody's machine."""
    names = [Path(str(each["root"])).name for each in (data, *data.get("more", []))]
    words = [" and ".join(names), f"{data.get('split') or 'its own'} split"]
    if data.get("size"):
        words.append(f"{data['frames']} frames at {data['size']} pixels")
    if data.get("classes"):
        words.append(f"classes {', '.join(map(str, data['classes']))}")
    return ", ".join(words)


def _data_of(config: dict[str, Any], run: Path) -> dict[str, Any] | None:
    """The data set of a run, or of the run that its training data came from."""
    if data := config.get("data"):
        return data
    for source in [Path(config[key]) for key in MADE_FROM if config.get(key)]:
        for folder in (source, run.parent / source.name):  # where it was, or beside this run
            if (folder / "config.yaml").exists():
                return yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")).get("data")
    return None
