"""The config of `evagen benchmark`."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated

from pydantic import Field, create_model

from evagen.ar_model import SamplingOptions
from evagen.config import ONLY_HOW, Place, Section, Seed
from evagen.data.layouts import Split
from evagen.eval.protocol import ScoredFrames
from evagen.kernels.backends import Precision
from evagen.models.lengths import LengthChoice
from evagen.models.networks import ComparisonNetwork, DetectorName
from evagen.run import Infers, ReadsClips, RunFolder, Seeded
from evagen.scoring.distances import Certainty
from evagen.scoring.videos import ScoredData


class Changes(Section):
    """What differs from the protocol; each goes into its name, since such scores do not compare with the protocol's.
    None leaves what the protocol says."""

    dataset: str | None = None
    """Name of another data set, whose videos are scored by the protocol's rules: all that there are, unless `drawn`
    or `first_videos` say how many."""
    split: Split | None = None
    split_index: int | None = Field(None, ge=1, le=3)
    size: int | None = Field(None, ge=1)
    """Height and width of the clips in pixels."""
    drawn: int | None = Field(None, ge=1)
    """Clips drawn of all."""
    first_videos: int | None = Field(None, ge=1)
    """Take the first so many videos only."""
    num_generated: int | None = Field(None, ge=1)
    """Clips of the other side."""
    seed: Seed | None = None
    """Of the choice of real clips."""
    frames_per_second: float | None = Field(None, gt=0)
    """Real clips are resampled in time to this rate."""
    scored_frames: ScoredFrames | None = None
    given_lengths: tuple[int, ...] | None = None
    """Of a frame prediction: tokens of each block that the given frames reach into, `[512, 128]`. `[]` where router or
    uniform_length choose them, though the protocol names them."""
    ddof: int | None = Field(None, ge=0, le=1)


OptionChanges = create_model(  # the same keys as elsewhere, each of which may stay as the protocol says
    "OptionChanges", __base__=Section, **{field.name: (field.type | None, None) for field in fields(SamplingOptions)}
)


class BenchmarkRun(Infers, ReadsClips, Seeded, RunFolder):
    precision: Precision | None = None  # type: ignore[assignment]
    """Of the models' matrix products. The protocol's if None; another one goes into the score's name. Networks behind
    metrics, the quantiser and the drawing of tokens stay in fp32."""


class Benchmark(LengthChoice):
    """Lengths are those of reconstructed clips, or of given frames."""

    run: BenchmarkRun
    protocol: str
    """Its name; `evagen protocols` lists and explains them."""
    changes: Changes = Changes()
    data: ScoredData
    tokenizer: Place | None = None
    """The tokenizer to score, ours or LARP's, or the one whose tokens the generator writes; folder or hub id."""
    generator: Place | None = None
    """The generator to score, folder or hub id."""
    samples: Path | None = None
    """In place of a generator: a folder of videos, the first clip of each of which is scored."""
    options: OptionChanges = OptionChanges()  # type: ignore[valid-type]
    """Sampling. Where the protocol prescribes something else, it goes into its name."""
    detector: DetectorName = "protocol"
    """`protocol`: I3D. `offline`: the ImageNet network that comes as a package. `videomae`."""
    detector_weights: Place | None = None
    """File of I3D, or folder or hub id of VideoMAE."""
    detector_sha256: str | None = None
    """Checksum of an I3D-like TorchScript file of your own."""
    download: bool = True
    """Whether the detector may be downloaded."""
    compare: ComparisonNetwork = ComparisonNetwork()
    """What compares reconstructed frames with real ones."""
    certainty: Certainty = Certainty()
    accept_incomplete: bool = False
    """Score without videos that are missing or damaged, under a name that says how many."""
    label: str | None = None
    """The row in tables; the name of the scored folder if None."""
    cache: Path | None = None
    """Folder for the features of real clips; `~/.cache/evagen/statistics` if None."""
    batch_size: int = Field(32, ge=1)
    """Clips computed together."""
    save_seconds: Annotated[float, ONLY_HOW] = Field(60, ge=0)
    """Seconds between saves, which is what a killed process loses at most."""
