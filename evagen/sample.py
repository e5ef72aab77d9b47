"""Writes new clips: class-conditional sampling into video files.

accelerate launch -m evagen.sample configs/quickstart/sample.yaml [key=value …]

Leaves `<run.out>/<class>/<number>.<format>`, `tokens.jsonl` with every clip's lengths and codes, and
`manifest.json` with all that is needed to write them again. A clip depends on the seed and its own number
alone. Running again goes on where an earlier run stopped.
"""

import difflib
import json
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from tqdm.auto import tqdm

from ar_model import SampledTokens, SamplingOptions, VideoGenerator, sample
from evagen.checkpoints import load_model
from evagen.config import Section, section_of
from evagen.data.video import video_to_frames, write_video
from evagen.errors import UserError
from evagen.tokenize import fingerprint
from evagen.training import RunConfig, start_accelerator
from tokenizer import TokenizedClips, VideoTokenizer

OptionsConfig = section_of(SamplingOptions)


class Sampling(Section):
    run: RunConfig
    generator: str
    """A trained generator, folder or hub id."""
    tokenizer: str
    """The tokenizer whose tokens it was trained on."""
    classes: list[str] | None = None
    """Classes to sample, by name; all if None."""
    clips_per_class: int = Field(4, ge=1)
    options: OptionsConfig = OptionsConfig()  # type: ignore[valid-type]
    batch_size: int = Field(64, ge=1)
    """Clips sampled together."""
    format: Literal["mp4", "gif", "avi"] = "mp4"
    frames_per_second: int = Field(15, ge=1)


def main(config: Sampling) -> Path:
    """Samples every clip that is not there yet; returns the run folder."""
    accelerator = start_accelerator(config, config.run)
    if accelerator.num_processes > 1:
        raise UserError("sampling runs in one process; launch it with --num_processes 1")
    generator = load_model(VideoGenerator, config.generator, accelerator.device)
    tokenizer = load_model(VideoTokenizer, config.tokenizer, accelerator.device)
    check_tokenizer(generator, tokenizer)
    names = config.classes or list(generator.config.class_names) or [None]
    labels = torch.tensor([label_of(name, generator) for name in names]).repeat_interleave(config.clips_per_class)
    options = SamplingOptions(**config.options.model_dump())
    tokens_path = config.run.out / "tokens.jsonl"
    done = _finished_rows(tokens_path)
    with (
        tokens_path.open("a") as file,
        tqdm(total=len(labels), initial=done, desc="sampling", unit="clip") as bar,
    ):
        for start in range(done, len(labels), config.batch_size):
            numbers = range(start, min(start + config.batch_size, len(labels)))
            seeds = [clip_seed(config.run.seed, number) for number in numbers]
            clips = list(sample(generator, labels[start : numbers.stop], seeds, options, config.batch_size))
            for number, clip, video in zip(numbers, clips, decode_clips(tokenizer, clips)):
                name = names[number // config.clips_per_class] or "clips"
                path = config.run.out / name / f"{number:06d}.{config.format}"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_video(path, video_to_frames(video), config.frames_per_second)
                row = {
                    "path": str(path.relative_to(config.run.out)), "class": name, "seed": seeds[number - start],
                    "lengths": clip.lengths.tolist(), "codes": clip.codes.tolist(),
                }  # fmt: skip
                file.write(json.dumps(row) + "\n")
                file.flush()
                bar.update()
    manifest = {
        "config": config.model_dump(mode="json"),
        "clips": len(labels),
        "generator_fingerprint": fingerprint(generator),
        "tokenizer_fingerprint": fingerprint(tokenizer),
    }
    (config.run.out / "manifest.json").write_text(json.dumps(manifest, indent=1))
    return config.run.out


def _finished_rows(path: Path) -> int:
    """How many clips an earlier run finished; a line that it was cut off in is taken out."""
    if not path.exists():
        return 0
    lines = path.read_text().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < len(lines):
        path.write_text("".join(whole))
    return len(whole)


def clip_seed(seed: int, number: int) -> int:
    """The seed of one clip of a sampling run."""
    return seed * 1_000_003 + number


def label_of(name: str | None, generator: VideoGenerator) -> int:
    """A class's label, -1 for None. Raises UserError with the nearest name for an unknown class."""
    if name is None:
        return -1
    known = list(generator.config.class_names)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
        raise UserError(f"the generator knows no class {name!r}; the nearest are {', '.join(near) or 'none at all'}")
    return known.index(name)


def check_tokenizer(generator: VideoGenerator, tokenizer: VideoTokenizer) -> None:
    """Raises UserError unless the tokenizer is the one whose tokens the generator was trained on."""
    wanted, found = generator.config.tokenizer_fingerprint, fingerprint(tokenizer)
    if wanted not in (None, found):
        raise UserError(
            f"the generator was trained on the tokens of tokenizer {wanted}; this one is {found}: give the folder "
            "of the tokenizer that made its corpus"
        )


def decode_clips(tokenizer: VideoTokenizer, clips: list[SampledTokens]) -> Tensor:
    """Sampled tokens → video B C F H W in [-1, 1]."""
    joined = TokenizedClips(torch.cat([c.codes for c in clips]), torch.stack([c.lengths for c in clips]))
    return tokenizer.decode(TokenizedClips(joined.codes.to(tokenizer.device), joined.lengths))


if __name__ == "__main__":
    from evagen.cli import stage_main

    stage_main("evagen.sample")
