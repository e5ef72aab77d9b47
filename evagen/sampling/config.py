"""The config of `evagen sample`."""

from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from evagen.ar_model import LengthConstraints, SamplingOptions
from evagen.config import ONLY_HOW, Place, Section, section_of
from evagen.data.video_writer import RATES
from evagen.run import Infers, ReadsClips, RunFolder, Seeded
from evagen.sampling.given import Given

OptionsConfig = section_of(SamplingOptions)


class Lengths(section_of(LengthConstraints)):  # type: ignore[misc]
    @pydantic.model_validator(mode="before")
    @classmethod
    def _forced_alone(cls, values: Any) -> Any:
        """`lengths=256,64,free,32` and `lengths=[256, 64, null, 32]` are short for `lengths.forced=…`."""
        if isinstance(values, str):
            values = [None if part.strip() == "free" else part.strip() for part in values.split(",")]
        if isinstance(values, int):  # of the only block, or one that other blocks are missing beside
            values = [values]
        return {"forced": values} if isinstance(values, list) else values


class SamplingRun(Infers, Seeded, ReadsClips, RunFolder):
    """`num_workers` reads given videos."""


class Sampling(Section):
    run: SamplingRun
    generator: Place
    """A trained generator, folder or hub id."""
    tokenizer: Place
    """The tokenizer whose tokens it was trained on."""
    classes: list[str] | None = None
    """Classes to sample, by name; all if None."""
    clips_per_class: int = Field(4, ge=1)
    """Clips of each class; or of each given clip; or in all, where there are neither."""
    given: Given | None = None
    """Videos to begin from: for frame prediction with a generator trained for it, else for continuation."""
    options: OptionsConfig = OptionsConfig()  # type: ignore[valid-type]
    lengths: Lengths = Field(default_factory=Lengths)
    """Tokens of the blocks: as the generator likes, unless asked otherwise."""
    blocks: int | None = Field(None, ge=1)
    """Temporal blocks of each video, those that are given included; as trained if None. Another number needs a
    generator without an end: one that was trained with `blocks` on the tokens of a tokenizer with a memory."""
    seconds: float | None = Field(None, gt=0)
    """In place of blocks: so many seconds at `frames_per_second`."""
    slots: Annotated[int | None, ONLY_HOW] = Field(None, ge=1)
    """Clips written side by side in each process; as many as a GPU's memory holds, at most 64, if None."""
    formats: list[Literal["mp4", "gif", "avi", "mkv", "png"]] = Field(["mp4"], min_length=1)
    """`mkv` is lossless, for scoring, which takes a folder of one video format; `png` is one picture of all frames, a
    row for each block."""
    frames_per_second: int = Field(15, ge=1)
    """Of the files that are written."""

    @pydantic.model_validator(mode="after")
    def _classes_or_given(self) -> "Sampling":
        if self.classes is not None and self.given is not None:
            raise ValueError(
                f"classes={self.classes} beside given: clips have the classes of the videos that they begin from; "
                "leave classes out, or choose among the videos with given.data.classes"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _blocks_or_seconds(self) -> "Sampling":
        if self.blocks is not None and self.seconds is not None:
            raise ValueError(f"blocks={self.blocks} and seconds={self.seconds:g} say the same thing: give one of them")
        return self

    @pydantic.model_validator(mode="after")
    def _a_rate_that_the_formats_hold(self) -> "Sampling":
        for suffix in (f".{name}" for name in self.formats if name != "png"):
            if self.frames_per_second > RATES[suffix][1]:
                raise ValueError(
                    f"frames_per_second={self.frames_per_second}: a {suffix} holds at most {RATES[suffix][1]:,}; give "
                    "fewer, or leave it out of formats"
                )
        return self

    @property
    def listed_format(self) -> str:
        """Whose files the rows name: the first that is a video, where there is one."""
        return next((name for name in self.formats if name != "png"), "png")
