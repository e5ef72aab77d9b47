"""From the config of `evagen benchmark` to what is scored and how; everything that does not fit is refused here."""

from dataclasses import dataclass, replace

import torch

from evagen.ar_model import SamplingOptions, VideoGenerator
from evagen.config import changed
from evagen.data.layouts import class_of
from evagen.errors import UserError
from evagen.eval import PreparedDetector, Protocol, SourceClip, get_protocol
from evagen.kernels.backends import Precision
from evagen.models.fit import check_clips, check_generator
from evagen.models.inference import load_any_tokenizer, load_for
from evagen.models.larp import LarpTokenizer
from evagen.models.lengths import RoutedLengths, UniformLengths
from evagen.models.loading import fingerprint
from evagen.models.networks import choose_detector
from evagen.sampling.classes import label_of
from evagen.scoring.clips import FileClips, LabelClips
from evagen.scoring.config import Benchmark
from evagen.scoring.record import Model
from evagen.scoring.subjects import FolderOfClips, Generation, Reconstruction, Subject, first_clips
from evagen.scoring.videos import RealVideos, relabelled
from evagen.tokenizer import VideoTokenizer

OF_MODELS = ("options", "preference", "prefix", "compare", "run.precision", "run.seed", "run.attention")
"""Keys that say nothing of a folder of videos."""


@dataclass(frozen=True)
class Models:
    """What is scored, and what it needs."""

    tokenizer: VideoTokenizer | LarpTokenizer | None
    assign: RoutedLengths | UniformLengths | None
    generator: VideoGenerator | None

    @staticmethod
    def load(config: Benchmark, protocol: Protocol, device: torch.device) -> "Models":
        """Raises UserError for models that are not there, or do not fit each other or the protocol's clips."""
        tokenizer: VideoTokenizer | LarpTokenizer | None = None
        if config.tokenizer and config.generator:
            tokenizer = load_for(config.run, VideoTokenizer, config.tokenizer, device, protocol.tokenizer_precision)
        elif config.tokenizer:
            tokenizer = load_any_tokenizer(config.run, config.tokenizer, device, protocol.tokenizer_precision)
        generator: VideoGenerator | None = None
        if config.generator:
            generator = load_for(config.run, VideoGenerator, config.generator, device, protocol.generator_precision)
        if tokenizer:
            size = tokenizer.config.resolution
            advice = f"changes.size={size} scores at its size, under another name"
            check_clips(tokenizer, protocol.num_frames, protocol.frames.size, f"the clips of {protocol.name}", advice)
        assign: RoutedLengths | UniformLengths | None = None
        if tokenizer and config.is_made:
            assign = config.load(tokenizer)
        elif tokenizer and protocol.given_lengths:
            assign = _given_lengths(protocol, tokenizer)
        if generator and tokenizer:
            check_generator(generator, tokenizer, config.tokenizer)
            if generator.config.given_frames != protocol.given_frames:
                raise UserError(
                    f"{protocol.name} gives {protocol.given_frames} frames of each clip; the generator at "
                    f"{config.generator} was trained to be given {generator.config.given_frames}"
                )
        return Models(tokenizer, assign, generator)

    def as_record(self, config: Benchmark, subject: Subject) -> dict[str, Model]:
        """Where each is, and the checksum of its weights."""
        router = self.assign.router if isinstance(self.assign, RoutedLengths) else None
        models = {"tokenizer": self.tokenizer, "router": router, "generator": self.generator}
        found = {
            name: Model(source=str(getattr(config, name)), fingerprint=fingerprint(model))
            for name, model in models.items()
            if model
        }
        if isinstance(subject, FolderOfClips):
            found["samples"] = Model(source=str(config.samples), fingerprint=subject.clips.fingerprint())
        return found


def _given_lengths(protocol: Protocol, tokenizer: VideoTokenizer) -> UniformLengths:
    """Raises UserError where they are not the tokenizer's, or not one for each block that the frames reach into."""
    space, patch = tokenizer.assignments, tokenizer.config.temporal_patch
    count = -(-protocol.given_frames // patch)
    lengths = protocol.given_lengths
    if len(lengths) != count or not set(lengths) <= set(space.levels):
        raise UserError(
            f"{protocol.name} encodes given frames with {list(lengths)} tokens; {protocol.given_frames} frames reach "
            f"into {count} blocks of this tokenizer, whose lengths are {', '.join(map(str, space.levels))}. Name "
            "others, under another name, with changes.given_lengths; with [] router or uniform_length choose them"
        )
    return UniformLengths(lengths[-1], patch, prefix=lengths)  # what follows is not given


def protocol_of(config: Benchmark) -> tuple[Protocol, SamplingOptions]:
    """The protocol with what is changed about it in its name, and how clips are sampled under it. Raises UserError for
    an unknown protocol, and for sampling options that exclude each other."""
    changes = config.changes.model_dump(exclude_none=True)
    given = config.options.model_dump(exclude_none=True)
    try:
        protocol = get_protocol(config.protocol)
        protocol = protocol.changed(**changes) if changes else protocol
        if {"dataset", "split", "split_index"} & set(changes):  # another number of videos
            protocol = replace(protocol, num_real=protocol.clips.fixed_count)
        prescribed = {
            name: value
            for name in ("guidance", "temperature", "top_k", "top_p")
            if (value := getattr(protocol, name)) is not None
        }
        usual = SamplingOptions(**prescribed)
        options = replace(usual, **given)
    except ValueError as error:
        raise UserError(str(error)) from error
    if given and protocol.task == "reconstruction":
        raise UserError(f"options.{next(iter(given))} is given, but {protocol.name} samples nothing")
    others = {name: value for name, value in given.items() if value != getattr(usual, name)}
    if others and protocol.task != "generation":  # which leaves them open
        label = ", ".join(f"{name}={value}" for name, value in sorted(others.items()))
        own = {name: others[name] for name in others if hasattr(protocol, name)}
        protocol = relabelled(protocol, label, **own)
    protocol = _in_precision(protocol, config.run.precision)
    if protocol.name != config.protocol:
        about = f"{config.protocol} with the changes that stand in its name. {protocol.explanation}"
        protocol = replace(protocol, explanation=about)
    return protocol, options


def _in_precision(protocol: Protocol, precision: Precision | None) -> Protocol:
    """The protocol in the precision that a run asks for. Where the protocol computes in another one, it goes into the
    name, unless the protocol leaves sampling open."""
    if precision is None:
        return protocol
    parts = ["tokenizer_precision"] + ["generator_precision"] * (protocol.task != "reconstruction")
    others = {part: precision for part in parts if getattr(protocol, part) != precision}
    if not others or protocol.task == "generation":
        return replace(protocol, **others)
    return relabelled(protocol, f"precision={precision}", **others)


def check_inputs(config: Benchmark, protocol: Protocol) -> None:
    """Raises UserError unless just the models are named that the protocol's task needs."""
    named = {
        name for name in ("tokenizer", "router", "uniform_length", "generator", "samples") if getattr(config, name)
    }
    possible = _ways(protocol)
    if named not in possible:
        ways = " or ".join(", ".join(f"{name}=…" for name in sorted(names)) for names in possible)
        raise UserError(f"{protocol.name} ({protocol.task}) needs {ways}; got {', '.join(sorted(named)) or 'none'}")
    if config.changes.num_generated and protocol.task in ("reconstruction", "frame-prediction"):
        raise UserError(f"changes.num_generated: {protocol.name} scores one clip for each real one; change those")
    if config.changes.seed is not None and protocol.clips.place != "random" and protocol.clips.drawn is None:
        raise UserError(f"changes.seed is of real clips that are drawn; {protocol.name} draws none: leave it out")
    for name in ("scored_frames", "given_lengths"):
        if getattr(config.changes, name) is not None and protocol.task != "frame-prediction":
            raise UserError(f"changes.{name} is for frame prediction; {protocol.name} is {protocol.task}")
    unused = _unused(config, protocol)
    for key in changed(config):
        for name in unused.keys() & {key, key.partition(".")[0]}:
            raise UserError(f"{key} {unused[name]}: leave it out")


def _unused(config: Benchmark, protocol: Protocol) -> dict[str, str]:
    """Keys and groups of keys that nothing would look at, and why."""
    if config.samples:
        return dict.fromkeys(OF_MODELS, f"is of models; {config.samples} holds videos")
    unused = {}
    if protocol.task == "reconstruction":
        unused["run.seed"] = f"is of sampling, and {protocol.name} samples nothing (changes.seed is of the real clips)"
    else:
        unused["compare"] = f"compares reconstructed frames with real ones; {protocol.name} is {protocol.task}"
    if not config.router:
        unused["preference"] = "is of a router, and none is given"
    if protocol.given_lengths:
        unused["prefix"] = f"is not asked for: {protocol.name} has its own lengths of given frames"
    elif not config.is_made:
        unused["prefix"] = f"is of lengths that router or uniform_length say; {protocol.name} needs neither"
    return unused


def _ways(protocol: Protocol) -> list[set[str]]:
    """The sets of models of which a protocol's task needs one."""
    of_lengths = ({"router"}, {"uniform_length"})
    if protocol.task == "reconstruction":
        return [{"tokenizer"} | lengths for lengths in of_lengths]
    if protocol.task != "frame-prediction":
        return [{"generator", "tokenizer"}, {"samples"}]
    if protocol.given_lengths:
        return [{"generator", "tokenizer"}]
    return [{"generator", "tokenizer"} | lengths for lengths in of_lengths]


def real_clips(protocol: Protocol, videos: RealVideos) -> list[SourceClip]:
    """Raises UserError where these videos do not give as many clips as the protocol scores."""
    try:
        return protocol.real_clips(videos.videos)
    except ValueError as error:
        keys = [f"changes.{name}=…" for name in ("first_videos", "drawn") if getattr(protocol.clips, name)]
        way = f" {' or '.join(keys)} takes fewer, under another name" if keys else ""
        raise UserError(f"{error}{way}") from error


def detector_of(config: Benchmark, protocol: Protocol) -> PreparedDetector:
    """The detector that is asked for, behind the protocol's input."""
    return choose_detector(protocol, config.detector, config.detector_weights, config.detector_sha256, config.download)


def subject_of(
    config: Benchmark,
    models: Models,
    clips: FileClips,
    videos: RealVideos,
    options: SamplingOptions,
    detector: PreparedDetector,
    device: torch.device,
) -> Subject:
    """What is scored against the real clips. Raises UserError where it does not have as many clips as they."""
    protocol, tokenizer, generator = clips.protocol, models.tokenizer, models.generator
    if protocol.task == "reconstruction":
        assert tokenizer is not None
        assert models.assign is not None
        perceptual = config.compare.load().to(device)
        return Reconstruction(clips, tokenizer, models.assign, detector, perceptual)
    count = protocol.num_generated or len(clips)
    if config.samples:
        found = first_clips(config.samples, protocol)
        if len(found) != count:
            raise UserError(
                f"{protocol.name} scores {count:,} clips, and {config.samples} holds {len(found):,} videos; "
                f"changes.num_generated={len(found)} scores them, under another name"
            )
        return FolderOfClips(found, detector, device)
    assert tokenizer is not None
    assert generator is not None
    shared = (generator, tokenizer, options, config.run.seed, protocol, detector)
    if protocol.task == "frame-prediction":
        return Generation(clips, *shared, models.assign)
    labels = protocol.labels_to_generate(clips.clips, videos.videos)[:count]
    if len(labels) < count:
        raise UserError(f"{protocol.name}: {count:,} clips for {len(labels):,} labels; the real clips are too few")
    known = list(generator.config.class_names)
    if protocol.task == "class-to-video" and not known:
        raise UserError(f"{protocol.name} asks for classes, and the generator at {config.generator} knows none")
    if protocol.task == "class-to-video" and (without := labels.count(-1)):
        raise UserError(
            f"{protocol.name} asks for the class of each real clip, and {without} of {count} clips of "
            f"{config.data.root} have none: put each class into a folder of its own, or take a protocol that asks for "
            "no classes, cdfvd"
        )
    wanted = {label: label_of(class_of(label, videos.class_names), known) if known else -1 for label in set(labels)}
    return Generation(LabelClips([wanted[label] for label in labels]), *shared)
