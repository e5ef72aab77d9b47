"""What a call of the pipeline asks for, checked: classes, random numbers, options of the sampler."""

import dataclasses
import difflib
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from evagen.ar_model import ClipTokens, LengthConstraints, SamplingOptions
from evagen.config import SEEDS
from evagen.errors import UserError
from evagen.sampling.clips import clip_seed

Generators = torch.Generator | Sequence[torch.Generator]
NOT_HERE = {
    "prompt": "the generator knows classes, not text: give classes=, names of pipeline.generator.config.class_names",
    "negative_prompt": "the generator knows classes, not text; guidance_scale leads away from clips of no class",
    "num_inference_steps": "there are no denoising steps: tokens are written one after another. Fewer tokens are "
    "faster: give lengths=, the tokens of each block",
    "guidance": "the name is guidance_scale",
    "num_videos_per_prompt": "the name is num_videos_per_class",
    "num_frames": "frames follow from the blocks: give num_blocks=, which a generator without an end can follow",
    "height": "clips have the size that the tokenizer was trained on",
    "width": "clips have the size that the tokenizer was trained on",
    "latents": "tokens are decoded by pipeline.decode(tokens)",
    "callback_on_step_end": "there are no denoising steps: callback_on_clip_end is called after each clip",
}
"""Arguments of other pipelines, and what to do here."""


def names_of(classes: str | Sequence[str | None] | None, num_videos_per_class: int) -> list[str | None]:
    """The class of each clip, None for any. Raises UserError for what is no name, and for no clip at all."""
    names = list(classes) if isinstance(classes, Iterable) and not isinstance(classes, str) else [classes]
    wrong = [name for name in names if name is not None and not isinstance(name, str)]
    if wrong:
        raise UserError(f"classes={wrong[0]!r}: classes are given by their names, as text, or None for any")
    if not isinstance(num_videos_per_class, numbers.Integral):
        raise UserError(f"num_videos_per_class={num_videos_per_class!r}: give a whole number")
    if not names or num_videos_per_class < 1:
        raise UserError(
            f"classes={names} with num_videos_per_class={num_videos_per_class} ask for no clip: give at least one class"
            " and one video of it"
        )
    return [name for name in names for _ in range(num_videos_per_class)]


def seeds_of(seed: int | None, generator: Generators | None, num_clips: int) -> list[int]:
    """The seed of each clip: from `seed` as `evagen sample` has them, or else drawn from one generator for all, from
    one for each clip, or from torch's own. Raises UserError for both, and for another number of generators."""
    if seed is not None and generator is not None:
        raise UserError(f"seed={seed} and generator=… both say which random numbers to use: give one of them")
    if seed is not None:
        if not isinstance(seed, numbers.Integral):
            raise UserError(f"seed={seed!r}: give a whole number")
        return [clip_seed(int(seed), number) for number in range(num_clips)]
    if generator is None or isinstance(generator, torch.Generator):
        return _draw(generator, num_clips)
    if not isinstance(generator, Sequence) or not all(isinstance(each, torch.Generator) for each in generator):
        raise UserError(f"generator={generator!r}: give a torch.Generator, or a list of them, one for each clip")
    if len(generator) != num_clips:
        raise UserError(f"{len(generator)} generators for {num_clips} clips: give one, or as many as clips")
    return [_draw(each, 1)[0] for each in generator]


def _draw(generator: torch.Generator | None, count: int) -> list[int]:
    device = generator.device if generator is not None else "cpu"
    return torch.randint(SEEDS, (count,), generator=generator, device=device).tolist()


def constraints_of(lengths: Sequence[int | None] | LengthConstraints | None) -> LengthConstraints:
    """What is asked of the lengths. Raises UserError for what is no list of whole numbers."""
    if lengths is None or isinstance(lengths, LengthConstraints):
        return lengths or LengthConstraints()
    try:
        return LengthConstraints(lengths)
    except ValueError as error:
        raise UserError(
            f"lengths={lengths!r}: give a list of whole numbers, the tokens of each block, None where the generator "
            "chooses; or LengthConstraints"
        ) from error


def check_clips(clips: Sequence[ClipTokens]) -> None:
    """Raises ValueError for what is no list of clips' tokens, and for clips of several lengths."""
    if not isinstance(clips, list | tuple) or not all(isinstance(clip, ClipTokens) for clip in clips):
        raise ValueError("they should be a list of ClipTokens, [tokens] for a lone clip")
    if len(sizes := {len(clip.lengths) for clip in clips}) != 1:
        raise ValueError(f"they are clips of {sorted(sizes) or 'no'} blocks: give some of one length together")


def options_of(guidance_scale: float, options: Mapping[str, Any]) -> SamplingOptions:
    """Raises UserError for values out of range, and for names that a call does not know, with what to do instead."""
    known = [each.name for each in dataclasses.fields(SamplingOptions) if each.name != "guidance"]
    for name, value in options.items():
        if name in known:
            continue
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        advice = NOT_HERE.get(name) or f"there is no such argument; the nearest of the sampler's is {nearest}"
        raise UserError(f"{name}={value!r}: {advice}")
    try:
        return SamplingOptions(guidance=guidance_scale, **options)
    except ValueError as error:
        raise UserError(str(error)) from error
    except TypeError as error:
        given = {"guidance_scale": guidance_scale, **options}
        raise UserError(f"{given}: numbers are needed ({error})") from error
