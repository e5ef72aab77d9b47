"""Whether a generator has learnt how many tokens each class deserves: the lengths that it writes against those of the
corpus that it was trained on.

    evagen study lengths runs/quickstart/samples runs/quickstart/tokens

How far apart two sets of clips are is the total variation distance of their levels, meaned over the blocks: half the
sum over levels of the difference of their shares; 0 for equal shares, 1 for no level in common. Two other distances say
what to make of it: of as many clips drawn from the corpus' own class, which no generator comes below; and of the
corpus' lengths whatever the class, which a generator that ignores the class would have.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from evagen.data.corpus import read_corpus
from evagen.errors import UserError
from evagen.sampling.rows import iterate_rows
from evagen.scoring.table import markdown

DRAWS = 200
"""Of as many clips from the corpus' class, whose distances are meaned."""


@dataclass(frozen=True)
class ClassLengths:
    """clips: how many were generated; true, generated: mean tokens of each block; distance, of_a_draw, of_all_classes:
    total variation from the corpus' class, see above."""

    name: str
    clips: int
    true: list[float]
    generated: list[float]
    distance: float
    of_a_draw: float
    of_all_classes: float


def main(samples: Path, corpus_folder: Path) -> list[ClassLengths]:
    """samples: the run folder of `evagen sample`, corpus_folder: of `evagen tokenize`. Raises UserError where either
    is missing or unfinished, where the corpus has no classes or they have none in common, and for clips of other
    numbers of blocks."""
    corpus = read_corpus(corpus_folder)
    if not corpus.class_names:
        raise UserError(f"the corpus in {corpus_folder} has no classes, and lengths are compared class by class")
    rows = corpus.table.select_columns(["lengths", "label"])[:]
    lengths, labels = torch.as_tensor(rows["lengths"]), torch.as_tensor(rows["label"])  # (n, T), (n,)
    if not (samples / "tokens.jsonl").exists():
        raise UserError(f"no tokens.jsonl in {samples}: give the run folder of a finished `evagen sample`")
    written: dict[str, list[list[int]]] = {}
    for row in iterate_rows(samples):
        written.setdefault(str(row["class"] or ""), []).append(row["lengths"])
    counts = sorted({len(each) for of_class in written.values() for each in of_class} - {lengths.shape[1]})
    if counts:
        raise UserError(
            f"{samples} has clips of {', '.join(map(str, counts))} blocks, the corpus in {corpus_folder} of "
            f"{lengths.shape[1]}: give samples of as many frames as its clips have"
        )
    found = []
    for label, name in enumerate(corpus.class_names):
        true = lengths[labels == label]  # (m, T)
        if name in written and len(true):
            found.append(compare(name, torch.tensor(written[name]), true, lengths, corpus.levels))
    if not found:
        raise UserError(
            f"{samples} has clips of {', '.join(filter(None, written)) or 'no class'}, the corpus in {corpus_folder} "
            f"of {', '.join(corpus.class_names)}: give samples of a generator that was trained on that corpus"
        )
    return found


def compare(name: str, generated: Tensor, true: Tensor, everything: Tensor, levels: list[int]) -> ClassLengths:
    """Of one class. generated (n, T), true (m, T) and everything (k, T), the lengths of all classes, int64."""
    shares = level_shares(true, levels)  # (T, L)
    random = torch.Generator().manual_seed(0)
    draws = [true[torch.randint(len(true), (len(generated),), generator=random)] for _ in range(DRAWS)]
    of_draws = [total_variation(level_shares(draw, levels), shares) for draw in draws]
    return ClassLengths(
        name, len(generated), true.double().mean(0).tolist(), generated.double().mean(0).tolist(),
        total_variation(level_shares(generated, levels), shares), sum(of_draws) / DRAWS,
        total_variation(level_shares(everything, levels), shares),
    )  # fmt: skip


def level_shares(lengths: Tensor, levels: list[int]) -> Tensor:
    """int64 (n, T) → how often each block has each level, float64 (T, L); a row sums to 1 where all are levels."""
    return (lengths[:, :, None] == torch.tensor(levels)).double().mean(0)


def total_variation(shares: Tensor, other: Tensor) -> float:
    """Of two of (T, L), meaned over the blocks."""
    return 0.5 * (shares - other).abs().sum(-1).mean().item()


def as_json(found: list[ClassLengths]) -> str:
    return json.dumps([asdict(each) for each in found], indent=1)


def describe(found: list[ClassLengths]) -> str:
    """A markdown table, and the means over all clips."""
    heads = [
        "class", "clips", "tokens of each block, corpus", "generated", "distance", "of another draw",
        "of all classes",
    ]  # fmt: skip
    rows = [
        [
            each.name, str(each.clips), _numbers(each.true), _numbers(each.generated),
            *(f"{value:.3f}" for value in (each.distance, each.of_a_draw, each.of_all_classes)),
        ]
        for each in found
    ]  # fmt: skip
    means = [
        sum(getattr(each, key) * each.clips for each in found) / sum(each.clips for each in found)
        for key in ("distance", "of_a_draw", "of_all_classes")
    ]
    rows.append(["all", str(sum(each.clips for each in found)), "", "", *(f"{mean:.3f}" for mean in means)])
    return markdown(heads, rows)


def _numbers(lengths: list[float]) -> str:
    return " ".join(f"{length:.0f}" for length in lengths)
