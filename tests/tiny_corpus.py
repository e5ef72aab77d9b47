"""Token corpora made up for tests, in the form that `evagen tokenize` leaves them."""

import json
from pathlib import Path

import numpy as np
from datasets import Dataset

LEVELS = [1, 3, 5]
CODES = 11
BLOCKS = 3


def write_corpus(
    folder: Path,
    num_clips: int,
    levels: list[int] = LEVELS,
    seed: int = 0,
    blocks: int = BLOCKS,
    stored_labels: list[int] | None = None,
    **contents,
) -> Path:
    """Clips of some blocks, two classes; a code follows from the class and the one before, so there is something to
    learn. Videos of two seeds are others. stored_labels: in place of those that codes follow. Returns the folder."""
    random = np.random.default_rng(seed)
    often = np.array([6, 3, 1])[: len(levels)]
    lengths = random.choice(levels, (num_clips, blocks), p=often / often.sum())
    labels = random.integers(2, size=num_clips)
    starts = random.integers(CODES, size=num_clips)
    codes = [
        ((start + (2 + label) * np.arange(row.sum())) % CODES).astype(np.int32)
        for start, label, row in zip(starts, labels, lengths)
    ]
    columns = {
        "codes": codes, "lengths": list(lengths.astype(np.int32)), "label": stored_labels or labels.tolist(),
        "path": [f"/videos/{seed}/{i}.avi" for i in range(num_clips)],
    }  # fmt: skip
    table = Dataset.from_dict(columns)
    table.save_to_disk(folder / "table")
    contents = {
        "codebook_size": CODES, "levels": levels, "num_blocks": blocks, "class_names": ["ants", "bees"],
        "tokenizer_fingerprint": "0123456789abcdef", "tokenizer_source": "nowhere",
        **contents,
    }  # fmt: skip
    about = {"rows": num_clips, "skipped": [], "made_from": {}, "contents": contents}
    (folder / "table" / "about.json").write_text(json.dumps(about))
    return folder
