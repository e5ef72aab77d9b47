"""A generator to train on a token corpus."""

from typing import Any

from evagen.ar_model import VideoGenerator
from evagen.data.corpus import Corpus
from evagen.models.fit import check_same_tokenizer
from evagen.models.loading import new_model, start_from

FROM_CORPUS = (
    "codebook_size", "levels", "num_blocks", "class_names", "tokenizer_fingerprint", "class_dropout", "given_frames",
    "num_given_blocks", "endless",
)  # fmt: skip
"""Arguments of a generator that its corpus and its training give."""


def new_generator(
    corpus: Corpus,
    settings: dict[str, Any],
    class_dropout: float,
    use_classes: bool,
    source: str | None = None,
    blocks: int | None = None,
) -> VideoGenerator:
    """A generator whose vocabulary is the corpus's, untrained or with the weights of the one at `source`. settings:
    its other arguments; blocks: of the windows of one without an end. Raises UserError for settings or weights that do
    not fit."""
    model = new_model(
        VideoGenerator, codebook_size=corpus.codebook_size, levels=corpus.levels,
        num_blocks=blocks or corpus.num_blocks,
        class_names=corpus.class_names if use_classes else [], class_dropout=class_dropout,
        tokenizer_fingerprint=corpus.tokenizer_fingerprint, given_frames=corpus.given_frames,
        num_given_blocks=corpus.num_given_blocks, endless=blocks is not None, **settings,
    )  # fmt: skip
    if source:
        check_same_tokenizer(
            start_from(model, source).config.tokenizer_fingerprint, corpus.tokenizer_fingerprint,
            f"the generator at {source} writes tokens of", "the corpus",
            "give one of the same tokenizer, or train without start_from",
        )  # fmt: skip
    return model
