"""What a score leaves: `record.json`, complete enough for another person to get the same number, and its line in a
markdown table."""

import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import av
import torch
from pydantic import Field, ValidationError, field_validator
from torch import Tensor

from evagen import __version__
from evagen.config import Section
from evagen.errors import UserError
from evagen.kernels.files import write_whole
from evagen.kernels.names import Text
from evagen.run import device_name, versions
from evagen.scoring.rows import MOVEMENT


class Score(Section):
    """A Fréchet distance. name: `gFVD`, `rFVD` or `FVD` if it is measured with the network of the FVD papers, else
    `Fréchet distance`; low and high: of the interval at confidence `level` from `resamples` bootstrap draws;
    kernel_distance: KVD, unbiased at any number of clips; extrapolated: to infinitely many clips, if it was asked for.
    """

    name: str
    value: float
    low: float
    high: float
    level: float
    standard_error: float
    resamples: int
    kernel_distance: float
    extrapolated: float | None = None


class Tokens(Section):
    """Of all clips together. codes_used: share of the codebook that occurs; perplexity: of the codes' distribution."""

    tokens_per_clip: float
    codes_used: float
    perplexity: float


class ReconstructionQuality(Section):
    """Means over clips. perceptual: by the network that `perceptual_network` names, which may not be that of LPIPS;
    motion: explained over all clips together, None where nothing moves."""

    psnr: float
    ssim: float
    perceptual: float
    perceptual_network: str
    perceptual_fingerprint: str
    motion: float | None = None


class Movement(Section):
    """How much moves in the scored and in the real clips, means over clips. frame_change: absolute difference of
    neighbouring frames, 0 to 2; moving_share: of the places that depart from the clip's still background by more than
    0.2. A generator that has learnt stillness shows here."""

    frame_change: float
    real_frame_change: float
    moving_share: float
    real_moving_share: float


class Model(Section):
    """A part of what was scored: where it is, and the checksum of its weights (of a folder of videos: of the list of
    its files)."""

    source: Text
    fingerprint: str


class Detector(Section):
    name: str
    fingerprint: str


class Clips(Section):
    """The real side. clips: checksum of which clips of which videos these are, the same for every copy of the data
    set; statistics: checksum of all that their features follow from; absent: videos that the lists name and this copy
    lacks; unreadable: files and clips that could not be decoded."""

    root: Text
    videos: int
    clips: str
    statistics: str
    absent: int = 0
    unreadable: list[Text] = Field(default_factory=list)
    remarks: list[Text] = Field(default_factory=list)


class Record(Section):
    """label: the row in a table; seconds: of the run that finished it, without those that were stopped before."""

    label: Text
    protocol: dict[str, Any]
    score: Score
    real_clips: int
    generated_clips: int
    detector: Detector
    models: dict[str, Model]
    lengths: str | None = None
    """Where reconstructed clips, or given frames, have their numbers of tokens from."""
    sampling: dict[str, Any] | None = None
    seed: int | None = None
    """Generated clip i has the seed `seed` · 1,000,003 + i."""
    tokens: Tokens | None = None
    reconstruction: ReconstructionQuality | None = None
    movement: Movement | None = None
    data: Clips
    remarks: list[Text]
    code: dict[str, str]
    environment: dict[str, Any]
    seconds: float

    @field_validator("protocol")
    @classmethod
    def _is_a_protocol(cls, protocol: dict[str, Any]) -> dict[str, Any]:
        """What tables and cards read of it; earlier versions had other fields besides."""
        if missing := {"name", "task", "dataset", "published"} - set(protocol):
            raise ValueError(f"a protocol without {', '.join(sorted(missing))}")
        return protocol


def movement_between(scored: Tensor, real: Tensor) -> Movement:
    """From both sides' `rows.movement_of`, (N, 2) each."""
    means = zip(MOVEMENT, scored.mean(0).tolist(), real.mean(0).tolist())
    return Movement(**{key: value for name, a, b in means for key, value in ((name, a), (f"real_{name}", b))})


def write_record(path: Path, record: Record) -> None:
    """The file appears under its name only when it is complete."""
    write_whole(path, json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n")


def read_record(path: Path) -> Record:
    """A record by its file or the folder that it is in. Raises UserError for a file that is missing or no record."""
    file = path / "record.json" if path.is_dir() else path
    try:
        return Record.model_validate_json(file.read_bytes())
    except OSError as error:
        hint = ": that run has not finished" if path.is_dir() else ""
        raise UserError(f"no record at {file}{hint} (`evagen benchmark` writes it)") from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no record as `evagen benchmark` and `evagen fvd` write it: {error}") from error


def code_version() -> dict[str, str]:
    """The package's version; in a checkout also the revision, marked where files differ from it."""
    found = {"evagen": __version__}
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        try:
            revision, changed = (
                subprocess.run(
                    ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=30
                ).stdout.strip()
                for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
            )
            found["revision"] = revision + (" with changes" if changed else "")
        except (OSError, subprocess.SubprocessError):  # no git here, or not our own checkout
            pass
    return found


def environment(device: torch.device, num_processes: int, precision: str | None = None) -> dict[str, Any]:
    """What the numbers were computed with; precision: of the models that are scored, None where there are none;
    networks behind metrics have fp32."""
    name = device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return versions() | {
        "av": av.__version__,
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
        "processes": num_processes,
        "precision": precision,
    }
