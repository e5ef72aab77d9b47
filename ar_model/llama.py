"""The generator as `transformers`' Llama and back, weight for weight, with equal logits.

    to_llama(generator).save_pretrained(folder)                      # safetensors and JSON
    generator = from_llama(LlamaForCausalLM.from_pretrained(folder))

The Llama's config has an attribute `evagen` with the vocabulary layout, so that whatever runs the Llama can turn its
tokens back into codes and lengths. Dropout, which matters in training alone, is not taken along: a Llama has none in
these places. `ar_model` itself does not import this module, since transformers takes seconds.

Legend: S sequences sampled together, n tokens so far, V vocabulary.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, LogitsProcessor

from evagen.ar_model.grammar import GrammarState, SequenceGrammar
from evagen.ar_model.transformer import VideoGenerator
from evagen.kernels.model_files import check_settings

FIRST_TOKENS = ("first_length", "first_class", "null_class", "separator", "end")
"""Numbers that follow from the layout; they stand in the config for those who read it without this code."""


def to_llama(generator: VideoGenerator) -> LlamaForCausalLM:
    """A Llama with copies of a generator's weights, in eval mode.

    Its generation config samples from the whole distribution, begins without a class where no prompt is given, ends at
    the end token and at the grammar's longest sequence.
    """
    grammar, ours = generator.grammar, generator.config
    layout = {
        "codebook_size": ours.codebook_size,
        "levels": list(ours.levels),
        "num_blocks": ours.num_blocks,
        "class_names": list(ours.class_names),
        "tokenizer_fingerprint": ours.tokenizer_fingerprint,
        "class_dropout": ours.class_dropout,
        "given_frames": ours.given_frames,
        "num_given_blocks": ours.num_given_blocks,
        "endless": ours.endless,
    }
    special = {"bos_token_id": grammar.null_class, "eos_token_id": grammar.end, "pad_token_id": grammar.end}
    config = LlamaConfig(
        vocab_size=grammar.vocabulary_size,
        hidden_size=ours.width,
        intermediate_size=generator.layers[0].mlp.up_proj.out_features,
        num_hidden_layers=ours.depth,
        num_attention_heads=ours.num_heads,
        max_position_embeddings=grammar.max_sequence_length,
        rope_theta=ours.rope_theta,
        rms_norm_eps=ours.norm_eps,
        tie_word_embeddings=False,
        evagen=layout | {name: getattr(grammar, name) for name in FIRST_TOKENS},
        **special,
    )
    llama = LlamaForCausalLM(config).to(generator.dtype)
    llama.load_state_dict({_llama_name(name): tensor for name, tensor in generator.state_dict().items()})
    longest = grammar.max_sequence_length
    llama.generation_config = GenerationConfig(do_sample=True, top_k=0, max_length=longest, **special)
    return llama.to(generator.device).eval()


def from_llama(llama: LlamaForCausalLM, layout: Mapping[str, Any] | None = None) -> VideoGenerator:
    """The generator of a Llama that `to_llama` made, trained further or not, in eval mode.

    layout: what `VideoGenerator` takes beside the shape (codebook_size, levels, num_blocks, class_names, …), for a
    Llama made elsewhere; from its config if None.
    Raises ValueError for a Llama without a layout, or with parts that the generator has not.
    """
    config = llama.config
    layout = layout_of(llama) if layout is None else layout
    _check_shape(config)
    settings = {name: value for name, value in layout.items() if name not in FIRST_TOKENS}
    check_settings(VideoGenerator, settings)
    if unknown := settings.keys() - inspect.signature(VideoGenerator).parameters.keys():
        raise ValueError(f"the layout has {', '.join(sorted(unknown))}, which a VideoGenerator has not")
    vocabulary_size = _grammar(layout).vocabulary_size
    if vocabulary_size != config.vocab_size:
        raise ValueError(
            f"the Llama has {config.vocab_size} tokens, its layout {vocabulary_size}: codes, levels, classes and 3 "
            "others; they must be as many"
        )
    shape = {
        "width": config.hidden_size,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "hidden_width": config.intermediate_size,
        "rope_theta": _rope(config)["rope_theta"],
        "norm_eps": config.rms_norm_eps,
    }
    generator = VideoGenerator(**settings | shape)
    if llama.dtype != generator.dtype:
        generator = generator.to(llama.dtype)
    weights = llama.state_dict()
    generator.load_state_dict({name: weights[_llama_name(name)] for name in generator.state_dict()})
    return generator.to(llama.device).eval()


def layout_of(llama: LlamaForCausalLM) -> dict[str, Any]:
    """The vocabulary layout in a Llama's config. Raises ValueError where there is none."""
    layout = getattr(llama.config, "evagen", None)
    if not isinstance(layout, Mapping):
        raise ValueError("the Llama's config has no 'evagen' layout: it was not exported from a VideoGenerator")
    return dict(layout)


def grammar_of(llama: LlamaForCausalLM) -> SequenceGrammar:
    """The grammar of an exported Llama: class tokens for prompts, `unpack` for what it wrote."""
    return _grammar(layout_of(llama))


def _grammar(layout: Mapping[str, Any]) -> SequenceGrammar:
    return SequenceGrammar(
        layout["codebook_size"], layout["levels"], layout["num_blocks"], len(layout.get("class_names", ())),
        layout.get("num_given_blocks", 0), layout.get("endless", False),
    )  # fmt: skip


class GrammarLogits(LogitsProcessor):
    """Lets `generate` write only what decodes: `generate(prompts, logits_processor=[GrammarLogits(grammar)])`.
    Prompts (S, n) begin with their class token."""

    def __init__(self, grammar: SequenceGrammar):
        self.grammar = grammar

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids (S, n), scores (S, V) → scores with -inf where the grammar forbids a token."""
        return scores.masked_fill(~self.grammar.allowed(self._state(input_ids)), -torch.inf)

    def _state(self, tokens: Tensor) -> GrammarState:
        """Where sequences (S, n) stand, from one length token to the next."""
        levels = torch.tensor(self.grammar.levels, device=tokens.device)
        begun, remaining, length, total = torch.zeros(4, len(tokens), dtype=torch.int64, device=tokens.device)
        due, num_tokens = self.grammar.first_length_at(tokens), tokens.shape[1]  # where the next length token belongs
        for _ in range(self.grammar.num_blocks):
            there = due < num_tokens  # (S,)
            token = tokens.gather(1, due.clamp_max(num_tokens - 1)[:, None])[:, 0]
            length = torch.where(there, levels[(token - self.grammar.first_length).clamp(0, len(levels) - 1)], length)
            due = torch.where(there, due + 1 + length, due)
            remaining = torch.where(there, (due - num_tokens).clamp_min(0), remaining)
            begun, total = begun + there, total + there * length
        return GrammarState(begun, remaining, length, total)


def _llama_name(name: str) -> str:
    return name if name.startswith("lm_head.") else f"model.{name}"


def _rope(config: LlamaConfig) -> Mapping[str, Any]:
    """Under its name in transformers 5, or in 4."""
    found = getattr(config, "rope_parameters", None)
    return found or {"rope_theta": config.rope_theta, **(config.rope_scaling or {})}


def _check_shape(config: LlamaConfig) -> None:
    needed = {
        "attention_bias": (config.attention_bias, False),
        "mlp_bias": (config.mlp_bias, False),
        "hidden_act": (config.hidden_act, "silu"),
        "num_key_value_heads": (config.num_key_value_heads, config.num_attention_heads),
        "head_dim": (config.head_dim, config.hidden_size // config.num_attention_heads),
        "rope_type": (_rope(config).get("rope_type", "default"), "default"),
    }
    wrong = [f"{name}={found} (needed: {wanted})" for name, (found, wanted) in needed.items() if found != wanted]
    if wrong:
        raise ValueError(f"a VideoGenerator cannot hold this Llama: {', '.join(wrong)}")
