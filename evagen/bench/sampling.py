"""Sampling against `transformers` and against the machine's own limit, and slots that are refilled against waiting.

A step has to read the weights once, so its shortest possible time is their bytes over the memory's bandwidth, which is
measured by adding up as many bytes. `transformers` writes with the same weights, exported, by its `generate`: sampling
at temperature 1 with its cache, guidance by its own processor, without our grammar, which favours it. All write clips
of 256 new tokens. They take turns, so that other programs on the machine disturb all alike.
"""

import warnings

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from evagen.ar_model import ClipRequest, LengthConstraints, SamplingOptions, VideoGenerator, sample_in_order
from evagen.ar_model.llama import to_llama
from evagen.bench.attention import router_like_lengths
from evagen.bench.timing import seconds_of

WIDTH, DEPTH, HEADS, CODEBOOK_SIZE, CLASSES = 512, 8, 8, 8192, 101
LEVELS, NUM_BLOCKS = [31, 63, 127], 4
NEW_TOKENS = NUM_BLOCKS * (1 + 63)
GUIDANCE = 1.5
REPEATS = 3
REFILL_CLIPS, REFILL_SLOTS, REFILL_LEVELS = 40, 8, [8, 16, 32, 64, 128]


def run() -> dict:
    """Keys: bandwidth_gb_s; rows, a list with batch, guidance, tokens_per_second (of all clips together),
    transformers_tokens_per_second, ratio, fraction_of_limit (the shortest possible time of a step over its time) and
    the bandwidth_gb_s of these turns;
    refill_speedup (clips per second over waiting for the longest) and refill_speedup_over_shrinking (over the same
    with rows dropped once half have ended), refill_tokens_per_clip, _shortest, _longest; parameters_million."""
    model = new_generator(LEVELS)
    llama = to_llama(model)
    bytes_per_step = 4 * (model.num_parameters() - model.embed_tokens.weight.numel())  # of the table, rows are read
    rows = [measure(model, llama, batch, g, bytes_per_step) for batch in (1, 4) for g in (1.0, GUIDANCE)]
    return {
        "bandwidth_gb_s": max(row["bandwidth_gb_s"] for row in rows),
        "rows": rows,
        **measure_refill(),
        "parameters_million": model.num_parameters() / 1e6,
    }


def new_generator(levels: list[int]) -> VideoGenerator:
    """36M parameters, untrained."""
    torch.manual_seed(0)
    names = [str(i) for i in range(CLASSES)]
    return VideoGenerator(CODEBOOK_SIZE, levels, NUM_BLOCKS, names, WIDTH, DEPTH, HEADS).eval()


def measure(model: VideoGenerator, llama: LlamaForCausalLM, batch: int, guidance: float, bytes_per_step: int) -> dict:
    """One row."""
    as_many_bytes = torch.ones(bytes_per_step // 4)
    constraints = LengthConstraints([63] * NUM_BLOCKS)
    requests = [ClipRequest(i, i % CLASSES, constraints=constraints) for i in range(batch)]
    options = SamplingOptions(guidance=guidance)
    prompts = model.grammar.class_token(torch.arange(batch) % CLASSES)[:, None]  # S 1
    null = torch.full_like(prompts, model.grammar.null_class)
    guided = {"guidance_scale": guidance, "negative_prompt_ids": null} if guidance != 1 else {}

    def theirs() -> Tensor:
        return llama.generate(
            prompts, attention_mask=torch.ones_like(prompts), do_sample=True, top_k=0, max_new_tokens=NEW_TOKENS,
            eos_token_id=None, **guided,
        )  # fmt: skip

    def ours() -> None:
        clips = sample_in_order(model, requests, options)
        assert sum(len(clip.codes) + len(clip.lengths) for clip in clips) == batch * NEW_TOKENS

    def limit() -> None:
        as_many_bytes.sum()

    seconds = {ours: float("inf"), theirs: float("inf"), limit: float("inf")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(REPEATS):
            for work in seconds:
                seconds[work] = min(seconds[work], *(seconds_of(work) for _ in range(10 if work is limit else 1)))
    return {
        "batch": batch,
        "guidance": guidance,
        "tokens_per_second": batch * NEW_TOKENS / seconds[ours],
        "transformers_tokens_per_second": batch * NEW_TOKENS / seconds[theirs],
        "ratio": seconds[theirs] / seconds[ours],
        "fraction_of_limit": seconds[limit] * NEW_TOKENS / seconds[ours],
        "bandwidth_gb_s": bytes_per_step / seconds[limit] / 1e9,
    }


def measure_refill() -> dict:
    """Clips with lengths as a router assigns them, which a trained model writes: all in one call, whose slots are
    refilled, against groups of as many as there are slots, one after another."""
    model = new_generator(REFILL_LEVELS)
    lengths = router_like_lengths(REFILL_CLIPS, seed=0) // 4  # a quarter of the published ones
    groups = lengths.split(REFILL_SLOTS)
    longest = [group[group.sum(1).argmax()].expand_as(group) for group in groups]

    def waiting() -> None:  # to the last step of the longest all rows are computed, whatever is in them
        for group in longest:
            sample_in_order(model, _forced(group), num_slots=REFILL_SLOTS)

    def shrinking() -> None:
        for group in groups:
            sample_in_order(model, _forced(group), num_slots=REFILL_SLOTS)

    def refilled() -> None:
        sample_in_order(model, _forced(lengths), num_slots=REFILL_SLOTS)

    turns = [[seconds_of(work) for work in (waiting, shrinking, refilled)] for _ in range(2)]
    waited, shrunk, kept_full = (min(seconds) for seconds in zip(*turns))
    totals = lengths.sum(1)
    return {
        "refill_speedup": waited / kept_full,
        "refill_speedup_over_shrinking": shrunk / kept_full,
        "refill_tokens_per_clip": totals.double().mean().item(),
        "refill_shortest": int(totals.min()),
        "refill_longest": int(totals.max()),
    }


def _forced(lengths: Tensor) -> list[ClipRequest]:
    """Lengths (B, T) → a request for each clip."""
    return [ClipRequest(i, i % CLASSES, constraints=LengthConstraints(row.tolist())) for i, row in enumerate(lengths)]
