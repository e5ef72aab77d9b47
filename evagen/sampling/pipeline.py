"""Generator, tokenizer and router as one `diffusers` pipeline, which is saved, loaded and published as others are.

pipeline = VideoPipeline.from_pretrained("evagen/arcade")       # a name in the box, a folder, or a hub id
frames = pipeline("Frogger", seed=1, guidance_scale=1.5).frames  # float (1, F, H, W, 3) in [0, 1]
tokens = pipeline.encode("holiday.mp4", mean_tokens=100)
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor

from evagen.ar_model import ClipRequest, ClipTokens, LengthConstraints, VideoGenerator, is_guided, sample
from evagen.data.video_reader import VideoError
from evagen.errors import UserError
from evagen.kernels.files import read_json
from evagen.kernels.packed_linear import pack_linears
from evagen.kernels.sources import ASKED_OF_HUB, INDEX, SavedWithoutSource, box, is_out_of_reach, locate_pipeline
from evagen.models.fit import check_generator
from evagen.models.inference import HALF, autocast_to, precision_on
from evagen.models.loading import check_router, load_model, load_router
from evagen.sampling.asked import Generators, check_clips, constraints_of, names_of, options_of, seeds_of
from evagen.sampling.classes import label_of
from evagen.sampling.clips import decode_clips, slots_that_fit
from evagen.sampling.frames import DecodedType, Frames, GivenVideo, OutputType, as_output, as_video, check_output_type
from evagen.tokenizer import (
    AdaptiveTokenizer,
    BlockRouter,
    LiveTokenizer,
    Router,
    TokenizedVideo,
    VideoTokenizer,
    decode_in_chunks,
)

CUSTOM_PIPELINE = "pipeline.py"
"""In a saved folder: what diffusers reads for `custom_pipeline`, so that it finds this class."""
CLASS_IN_FILE = [Path(CUSTOM_PIPELINE).stem, "VideoPipeline"]
"""What a saved folder calls its class: diffusers' own `DiffusionPipeline`, which knows none of ours, takes it from that
file if it is told to trust it, and says so if not."""
PARTS = {"tokenizer": (VideoTokenizer,), "generator": (VideoGenerator,), "router": (Router, BlockRouter)}
"""What a saved folder may name; nothing else is imported or made because a folder says so."""
PRECISIONS = {torch.float32: "fp32"} | {dtype: name for name, dtype in HALF.items()}
OnClip = Callable[["VideoPipeline", int, ClipTokens], object]


@dataclass
class VideoPipelineOutput(BaseOutput):
    """What a call gives. frames: by output_type, `np` float32 (B, F, H, W, 3) in [0, 1], `pt` (B, F, 3, H, W) in
    [0, 1], `pil` a list of pictures for each clip, `latent` the tokens; tokens: of each clip."""

    frames: Frames | list[ClipTokens]
    tokens: list[ClipTokens]


class VideoPipeline(SavedWithoutSource, DiffusionPipeline):
    """Classes → clips; videos → tokens → videos.

    Args:
        tokenizer: turns videos into tokens and tokens into pixels.
        generator: writes the tokens; trained on this tokenizer's. None for a pipeline that only encodes and decodes.
        router: the tokenizer's, which says lengths. Sampling does not need it.

    Raises UserError for models that do not fit each other.
    """

    _optional_components: ClassVar = ["generator", "router"]  # diffusers adds a list to it
    tokenizer: VideoTokenizer
    generator: VideoGenerator  # these two may be None, which whoever asks for clips or tokens need not look at
    router: Router | BlockRouter

    def __init__(
        self,
        tokenizer: VideoTokenizer,
        generator: VideoGenerator | None = None,
        router: Router | BlockRouter | None = None,
    ):
        super().__init__()
        for name, part in {"tokenizer": tokenizer, "generator": generator, "router": router}.items():
            if not isinstance(part, PARTS[name]) and (part is not None or name == "tokenizer"):
                kinds = " or a ".join(kind.__name__ for kind in PARTS[name])
                raise UserError(f"the {name} is a {type(part).__name__}, a {kinds} is needed")
        if tokenizer.dtype != torch.float32:
            raise UserError(
                f"the tokenizer's weights are {tokenizer.dtype}, which changes its tokens: load it in fp32, as "
                "VideoPipeline.from_pretrained does, and then call pipeline.to(dtype)"
            )
        if generator is not None:
            check_generator(generator, tokenizer)
        if router is not None:
            check_router(tokenizer, router, "the router")
        self.register_modules(tokenizer=tokenizer, generator=generator, router=router)
        self._computed_in = torch.float32

    @staticmethod
    def of(generator: str | Path | None, tokenizer: str | Path, router: str | Path | None = None) -> "VideoPipeline":
        """From trained models, each a run, a folder, a hub id or a name in the box, as `from_pretrained` of a model
        takes it. Raises UserError where one is missing or they do not fit each other."""
        loaded = load_model(VideoTokenizer, tokenizer)
        return VideoPipeline(
            loaded, load_model(VideoGenerator, generator) if generator else None,
            load_router(loaded, router) if router else None,
        )  # fmt: skip

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Self:
        """From a folder, a hub id, or the name of models in the box (`evagen/arcade`). options: of diffusers: revision,
        variant, token, cache_dir, … With `dtype` (or `torch_dtype`) as `to(dtype)`. Raises UserError where there is no
        such pipeline."""
        dtypes = [options.pop(name, None) for name in ("dtype", "torch_dtype")]
        try:
            where = locate_pipeline(source)
        except FileNotFoundError as error:
            raise UserError(str(error)) from error
        try:
            if not Path(where).is_dir() and is_out_of_reach(where):
                options.setdefault("local_files_only", True)
            asked = {name: options[name] for name in ASKED_OF_HUB if name in options}
            _check_index(Path(where, INDEX) if Path(where).is_dir() else Path(hf_hub_download(where, INDEX, **asked)))
            pipeline = super().from_pretrained(where, **options)
        except (OSError, HfHubHTTPError) as error:
            if Path(where).is_dir():
                raise UserError(f"the pipeline in {where} is not whole: {error}") from error
            raise UserError(
                f"no pipeline at {source}: no local folder, no hub id within reach, and none of the models in the box: "
                f"{', '.join(box()) or 'none'}"
            ) from error
        except ValueError as error:  # a variant that is not there, a name that cannot be one, absurd settings
            raise UserError(f"no pipeline at {source}: {error}") from error
        return pipeline.to(dtype=next((dtype for dtype in dtypes if dtype is not None), torch.float32))

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """As diffusers', and with `pipeline.py`, by which its own `DiffusionPipeline` can load the folder."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CUSTOM_PIPELINE).write_text(
            "# What `DiffusionPipeline.from_pretrained(…, trust_remote_code=True)` loads.\n"
            'from evagen import VideoPipeline\n\n__all__ = ["VideoPipeline"]\n',
            encoding="utf-8",
        )
        super().save_pretrained(str(folder), **options)

    def to_json_string(self) -> str:
        """As diffusers', and with the class as `CLASS_IN_FILE`."""
        return json.dumps(json.loads(super().to_json_string()) | {"_class_name": CLASS_IN_FILE}, indent=2) + "\n"

    @classmethod
    def _dict_from_json_file(cls, json_file: str | Path) -> dict[str, Any]:
        """diffusers' reading of `model_index.json`. Whoever calls this class needs no file that leads to it."""
        return super()._dict_from_json_file(json_file) | {"_class_name": cls.__name__}

    def to(self, *args: Any, **options: Any) -> "VideoPipeline":
        """To a device, and to a dtype: bf16, fp16 or fp32 of the matrix products. As everywhere in evagen the weights
        stay in fp32, and so do the quantiser, the logits and the drawing of tokens. Raises UserError for another
        dtype, and for bf16 on a GPU without it. The models are for inference from then on: frozen, and on a CPU with
        packed weights; to train one further take it out and call `.train().requires_grad_(True)`."""
        places = [each for each in args if not isinstance(each, torch.dtype)]
        place = next((each for each in (*places, options.get("device")) if each is not None), self.device)
        dtypes = [*(each for each in args if isinstance(each, torch.dtype)), options.pop("dtype", None)]
        dtype = next((each for each in dtypes if each is not None), self.dtype)
        if dtype not in PRECISIONS:
            raise UserError(f"dtype={dtype}: the pipeline computes in {', '.join(map(str, PRECISIONS))}")
        precision_on(PRECISIONS[dtype], torch.device(place))
        super().to(*places, **options)
        for part in (self.tokenizer, self.generator, self.router):
            if part is not None:
                pack_linears(part.requires_grad_(False))
        self._computed_in = dtype
        return self

    @property
    def dtype(self) -> torch.dtype:
        """What matrix products are computed in; weights are float32."""
        return self._computed_in

    @torch.no_grad()
    def __call__(
        self,
        classes: str | Sequence[str | None] | None = None,
        seed: int | None = None,
        lengths: Sequence[int | None] | LengthConstraints | None = None,
        num_slots: int | None = None,
        num_blocks: int | None = None,
        *,
        num_videos_per_class: int = 1,
        generator: Generators | None = None,
        guidance_scale: float = 1.0,
        output_type: OutputType = "np",
        return_dict: bool = True,
        callback_on_clip_end: OnClip | None = None,
        **options: Any,
    ) -> VideoPipelineOutput | Any:  # a tuple if asked for, at which type checkers are not to stop
        """Clips of each class, `num_videos_per_class` one behind another. A progress bar counts them
        (`set_progress_bar_config`).

        Args:
            classes: names in `pipeline.generator.config.class_names`; a lone one; None for any.
            seed: clip i is that of `evagen sample` with the same `run.seed` and number i.
            lengths: tokens of each block, None where the generator chooses; or `LengthConstraints`.
            num_slots: clips written side by side; if None as many as memory holds, at most 64.
            num_blocks: of each clip, for a generator without an end; its window's if None.
            generator: in place of `seed`, draws the clips' seeds; or one for each clip. With neither torch's own does.
            guidance_scale: `guidance` of `evagen sample`, logits u + g·(c - u); 1 for none.
            output_type: what `frames` is to be, see `VideoPipelineOutput`; `latent` decodes nothing.
            return_dict: if False, a tuple (frames, tokens).
            callback_on_clip_end: called with the pipeline, a clip's number and its tokens, when these are written.
            options: others of `SamplingOptions`: temperature, top_k, top_p, min_p, guidance_schedule and
                guidance_interval.

        Raises UserError for what the generator cannot follow, or where there is no generator.
        """
        self._check_has("generator", "it can encode and decode. VideoPipeline.of(generator, tokenizer) has one")
        check_output_type(output_type)
        known = list(self.generator.config.class_names)
        names = names_of(classes, num_videos_per_class)
        constraints = constraints_of(lengths)
        requests = [
            ClipRequest(seed_of_clip, label_of(name, known), None, constraints, num_blocks)
            for seed_of_clip, name in zip(seeds_of(seed, generator, len(names)), names)
        ]
        tokens = self._write(requests, options_of(guidance_scale, options), num_slots, callback_on_clip_end)
        output = VideoPipelineOutput(self.decode(tokens, output_type) if output_type != "latent" else tokens, tokens)
        return output if return_dict else output.to_tuple()

    def _write(self, requests, options, num_slots: int | None, on_clip: OnClip | None) -> list[ClipTokens]:
        """The clips of some requests, in their order."""
        dtype = None if self.dtype == torch.float32 else self.dtype
        if num_slots is None:
            num_slots = slots_that_fit(self.generator, is_guided(self.generator, options), dtype)
        written: dict[int, ClipTokens] = {}
        try:
            with self.progress_bar(total=len(requests)) as bar:
                for number, tokens in sample(self.generator, requests, options, num_slots, dtype):
                    written[number] = tokens
                    bar.update()
                    if on_clip:
                        on_clip(self, number, tokens)
        except (TypeError, ValueError) as error:
            raise UserError(f"the generator cannot write these clips: {error}") from error
        return [written[number] for number in range(len(requests))]

    def encode(
        self,
        video: GivenVideo,
        *,
        preference: float | None = None,
        max_tokens: int | None = None,
        mean_tokens: float | None = None,
    ) -> TokenizedVideo:
        """One video of any length and size → its tokens, as many as the router says.

        Args:
            video: a file's name; pictures; an array (F, H, W, 3), uint8 or in [0, 1]; or a tensor (F, 3, H, W) in
                [0, 1]. What a call leaves in `frames` are several of these.
            preference: the quality dial w_q, from 0.8 (few tokens) to 1.6 (best quality); 1.2 if no dial is given.
            max_tokens: bound for each clip, or, with a memory, for each block.
            mean_tokens: bound for the average of all clips; not with a memory.

        Raises UserError where there is no router, for what is no video, and for dials that exclude each other or cannot
        be met."""
        self._check_has("router", "VideoPipeline.of(None, tokenizer, router) has one")
        dials = {"preference": preference, "max_tokens": max_tokens}
        remembers = self.tokenizer.config.memory_blocks is not None
        if remembers and mean_tokens is not None:
            raise UserError(
                f"mean_tokens={mean_tokens} is for tokenizers of clips; this one remembers: give max_tokens"
            )
        model = (LiveTokenizer if remembers else AdaptiveTokenizer)(self.tokenizer, self.router)
        try:
            with autocast_to(PRECISIONS[self.dtype], self.device):
                return model.encode(as_video(video), **dials, **({} if remembers else {"mean_tokens": mean_tokens}))
        except (VideoError, ValueError) as error:
            raise UserError(str(error)) from error

    @torch.no_grad()
    def decode(self, tokens: TokenizedVideo | Sequence[ClipTokens], output_type: DecodedType = "np") -> Frames:
        """What `encode` gave → one video of the same length and size; or the tokens of clips of one length, as a call
        gives them → all of them. The first dimension is that of the videos, as in `VideoPipelineOutput`. Raises
        UserError for tokens of another tokenizer."""
        check_output_type(output_type, DecodedType)
        try:
            with autocast_to(PRECISIONS[self.dtype], self.device):
                return as_output(self._decode(tokens), output_type)
        except ValueError as error:
            raise UserError(f"these tokens cannot be decoded: {error}") from error

    def _decode(self, tokens: TokenizedVideo | Sequence[ClipTokens]) -> Tensor:
        """(B, C, F, H, W) in [-1, 1]."""
        if isinstance(tokens, TokenizedVideo):
            return torch.cat(list(decode_in_chunks(self.tokenizer, tokens)), dim=1)[None]
        check_clips(tokens)
        return torch.cat([decode_clips(self.tokenizer, [clip]) for clip in tokens])

    def _check_has(self, part: str, advice: str) -> None:
        if getattr(self, part) is None:
            parts = ", ".join(name for name, each in self.components.items() if each is not None)
            raise UserError(f"this pipeline has no {part}, only: {parts}; {advice}")


def _check_index(path: Path) -> None:
    """Raises ValueError for a `model_index.json` that is not of this pipeline or names other classes than `PARTS`."""
    index = read_json(path)
    if (found := index.get("_class_name")) not in (VideoPipeline.__name__, CLASS_IN_FILE):
        raise ValueError(f"{path.name} is of a {found}, a {VideoPipeline.__name__} is needed")
    for name, value in index.items():
        if name.startswith("_"):
            continue
        known = [[kind.__module__, kind.__name__] for kind in PARTS.get(name, ())]
        if value not in (*known, [None, None]):
            raise ValueError(
                f"{path.name} names {value} as its {name}, which is not imported: a pipeline has "
                f"{', '.join(PARTS)}, of evagen's own classes"
            )
