"""Our generator against `transformers`' Llama: equal logits, equal samples, there and back through real files."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from evagen.ar_model import ClipRequest, ClipTokens, SamplingOptions, VideoGenerator, sample_in_order
from evagen.ar_model.llama import GrammarLogits, from_llama, grammar_of, to_llama
from evagen.cli import app
from evagen.commands.export_llama import main as export_llama
from evagen.commands.import_llama import main as import_llama
from evagen.errors import UserError

LEVELS = [1, 3, 5]


def new_generator(seed: int = 0, **changes) -> VideoGenerator:
    """Random in every weight, norms too, with logits apart from one another as a trained model's."""
    torch.manual_seed(seed)
    sizes = {"width": 32, "depth": 2, "num_heads": 2, "hidden_width": 48, "class_names": ["ants", "bees"]}
    model = VideoGenerator(11, LEVELS, 3, **(sizes | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        model.lm_head.weight.mul_(5)
    return model.eval()


def random_tokens(model: VideoGenerator, num_clips: int, seed: int) -> tuple[Tensor, list[int]]:
    random = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(LEVELS)[torch.randint(3, (num_clips, 3), generator=random)]
    clips = [ClipTokens(torch.randint(11, (int(row.sum()),), generator=random), row) for row in lengths]
    return model.grammar.pack(clips, torch.randint(-1, 2, (num_clips,), generator=random))


def assert_equal_logits(generator: VideoGenerator, llama: LlamaForCausalLM, seed: int = 0) -> None:
    """Packed in ours, one by one in theirs."""
    tokens, sequence_lengths = random_tokens(generator, 3, seed)
    with torch.no_grad():
        ours = generator(tokens, sequence_lengths).split(sequence_lengths)
        theirs = [llama(sequence[None]).logits[0] for sequence in tokens.split(sequence_lengths)]
    assert max((a - b).abs().max().item() for a, b in zip(ours, theirs)) <= 1e-4
    assert ours[0].std() > 0.3  # not equal for want of signal


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 2**31), st.floats(10, 1e6), st.floats(1e-8, 0.1), st.sampled_from([(32, 2), (48, 4), (24, 1)]),
    st.integers(1, 3),
)  # fmt: skip
def test_logits_are_equal_for_random_models(seed, rope_theta, norm_eps, shape, depth):
    width, num_heads = shape
    generator = new_generator(
        seed, rope_theta=rope_theta, norm_eps=norm_eps, width=width, num_heads=num_heads, depth=depth
    )
    assert_equal_logits(generator, to_llama(generator), seed)


def test_logits_are_equal_at_the_longest_sequence():
    """Where the rotary angles are largest."""
    torch.manual_seed(0)
    generator = new_generator()
    generator = VideoGenerator(11, [1, 700], 2, width=32, depth=1, num_heads=1, hidden_width=48, rope_theta=543.2)
    tokens = torch.randint(11, (generator.grammar.max_sequence_length,))
    with torch.no_grad():
        ours, theirs = generator(tokens, [len(tokens)]), to_llama(generator)(tokens[None]).logits[0]
    assert len(tokens) == 1404
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_through_files_there_and_back(tmp_path):
    generator = new_generator(rope_theta=777.0, norm_eps=1e-3, tokenizer_fingerprint="0123456789abcdef")
    generator.save_pretrained(tmp_path / "generator")
    export_llama(str(tmp_path / "generator"), tmp_path / "llama")
    files = sorted(path.name for path in (tmp_path / "llama").iterdir())
    assert files == ["config.json", "generation_config.json", "model.safetensors"]
    llama = AutoModelForCausalLM.from_pretrained(tmp_path / "llama")
    assert type(llama) is LlamaForCausalLM
    assert_equal_logits(generator, llama)
    import_llama(tmp_path / "llama", tmp_path / "again")
    again = VideoGenerator.from_pretrained(tmp_path / "again")
    expected = VideoGenerator.from_pretrained(tmp_path / "generator").config
    assert {key: again.config[key] for key in expected if key[0] != "_"} == {
        key: expected[key] for key in expected if key[0] != "_"
    }
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in generator.state_dict().items())


def test_the_export_says_how_to_read_its_tokens(tmp_path):
    to_llama(new_generator(tokenizer_fingerprint="0123456789abcdef")).save_pretrained(tmp_path)
    layout = json.loads((tmp_path / "config.json").read_text())["evagen"]
    assert layout == {
        "codebook_size": 11, "levels": LEVELS, "num_blocks": 3, "class_names": ["ants", "bees"],
        "tokenizer_fingerprint": "0123456789abcdef", "class_dropout": None, "given_frames": 0, "num_given_blocks": 0,
        "endless": False, "first_length": 11, "first_class": 14, "null_class": 16,
        "separator": 17, "end": 18,
    }  # fmt: skip
    generation = GenerationConfig.from_pretrained(tmp_path)
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (16, 18, 18)
    assert (generation.do_sample, generation.top_k, generation.max_length) == (True, 0, 1 + 3 * 6 + 1)


@torch.no_grad()
def our_greedy(model: VideoGenerator, prompts: Tensor, steps: int, grammar: bool) -> Tensor:
    """prompts (S,) → (S, 1 + steps)."""
    sequences, state = prompts[:, None], model.grammar.start(len(prompts), prompts.device)
    for _ in range(steps):
        logits = model(sequences.flatten(), [sequences.shape[1]] * len(prompts)).unflatten(0, sequences.shape)[:, -1]
        if grammar:
            logits = logits.masked_fill(~model.grammar.allowed(state), -torch.inf)
        tokens = logits.argmax(-1)
        state = model.grammar.advance(state, tokens) if grammar else state
        sequences = torch.cat([sequences, tokens[:, None]], dim=1)
    return sequences


def test_transformers_writes_the_same_greedy_tokens():
    generator = new_generator()
    prompts, llama = torch.tensor([14, 15, 16]), to_llama(generator)
    theirs = llama.generate(
        prompts[:, None], attention_mask=torch.ones(3, 1), do_sample=False, max_new_tokens=8, eos_token_id=None
    )
    assert torch.equal(theirs, our_greedy(generator, prompts, 8, grammar=False))


@pytest.mark.filterwarnings("ignore:.*do_sample.*")
def test_transformers_under_the_grammar_writes_the_same_clips_and_they_decode():
    generator = new_generator()
    prompts, llama = torch.tensor([14, 15, 16]), to_llama(generator)
    grammar = grammar_of(llama)
    constrained = {"attention_mask": torch.ones(3, 1), "logits_processor": [GrammarLogits(grammar)]}
    theirs = llama.generate(prompts[:, None], do_sample=False, **constrained)
    assert torch.equal(theirs, our_greedy(generator, prompts, theirs.shape[1] - 1, grammar=True))
    torch.manual_seed(0)
    for sequence in llama.generate(prompts[:, None], **constrained):
        end = int((sequence == grammar.end).nonzero()[0])
        codes, lengths = grammar.unpack(sequence[: end + 1])
        assert len(codes) == lengths.sum()


@pytest.mark.filterwarnings("ignore:.*do_sample.*")
@pytest.mark.parametrize(
    "known", [{"given_frames": 5, "num_given_blocks": 2}, {}, {"endless": True}],
    ids=["prediction", "continuation", "later window"],
)  # fmt: skip
def test_transformers_goes_on_from_given_blocks_as_we_do(known):
    generator = new_generator(**known)
    llama = to_llama(generator)
    grammar = grammar_of(llama)
    given = ClipTokens(torch.tensor([3, 1, 4, 1, 5, 9]), torch.tensor([5, 1]))
    prompt = grammar.prompt(1, given)[None]
    request, written = ClipRequest(0, 1, given), slice(None)
    if grammar.endless:  # the last of two windows, each of which begins with the last half of the one before
        window = ClipTokens(torch.tensor([3, 1, 4, 1, 5, 9, 2]), torch.tensor([5, 1, 1]))
        last = ClipTokens(torch.tensor([2]), torch.tensor([1]))
        prompt, request = grammar.prompt(1, last, begins_later=True)[None], ClipRequest(0, 1, window, num_blocks=5)
        written = slice(2, None)
    (ours,) = sample_in_order(generator, [request], SamplingOptions(temperature=0))
    (theirs,) = llama.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, logits_processor=[GrammarLogits(grammar)]
    )
    found = grammar.unpack(theirs[: int((theirs == grammar.end).nonzero()[0])])
    assert torch.equal(found.lengths, ours.lengths[written])
    assert torch.equal(found.codes, ours.codes[len(ours.codes) - len(found.codes) :])


def llama_config(**changes) -> LlamaConfig:
    sizes = {
        "vocab_size": 19, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
        "rope_theta": 333.0, "rms_norm_eps": 1e-4, "bos_token_id": 16, "eos_token_id": 18,
    }  # fmt: skip
    return LlamaConfig(**(sizes | changes))


LAYOUT = {"codebook_size": 11, "levels": LEVELS, "num_blocks": 3, "class_names": ["a", "b"]}


@pytest.mark.parametrize("tied", [False, True])
def test_a_llama_made_elsewhere_becomes_a_generator(tied):
    torch.manual_seed(0)
    llama = LlamaForCausalLM(llama_config(tie_word_embeddings=tied)).eval()
    with torch.no_grad():
        for parameter in llama.parameters():
            parameter.add_(torch.randn_like(parameter))
    generator = from_llama(llama, LAYOUT)
    assert_equal_logits(generator, llama)
    assert_equal_logits(generator, to_llama(generator))


@pytest.mark.parametrize(
    ("changes", "layout", "message"),
    [
        ({}, None, "no 'evagen' layout"),
        ({"vocab_size": 24}, LAYOUT, "the Llama has 24 tokens, its layout 19"),
        ({"num_key_value_heads": 1}, LAYOUT, r"cannot hold this Llama: num_key_value_heads=1 \(needed: 2\)"),
        ({"attention_bias": True}, LAYOUT, "attention_bias=True"),
        ({"head_dim": 8}, LAYOUT, "head_dim=8"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, LAYOUT, "rope_type=linear"),
    ],
)
def test_a_llama_that_does_not_fit_is_refused(changes, layout, message):
    with pytest.raises(ValueError, match=message):
        from_llama(LlamaForCausalLM(llama_config(**changes)), layout)


def test_the_commands(tmp_path):
    new_generator().save_pretrained(tmp_path / "generator")
    for arguments in (("export", "llama", "generator", "llama"), ("import", "llama", "llama", "again")):
        paths = [str(tmp_path / name) for name in arguments[2:]]
        done = CliRunner().invoke(app, [*arguments[:2], *paths])
        assert (done.exit_code, done.stdout.strip()) == (0, paths[1])
    with pytest.raises(UserError, match=r"generator cannot be imported as a generator: .*model_type"):
        import_llama(tmp_path / "generator", tmp_path / "other")
    with pytest.raises(UserError, match=r"nowhere holds no Llama \(config.json is missing\)"):
        import_llama(tmp_path / "nowhere", tmp_path / "other")
    with pytest.raises(UserError, match="llama is there already"):
        export_llama(str(tmp_path / "generator"), tmp_path / "llama")


def test_an_export_that_fails_leaves_nothing_in_the_way_of_the_next(tmp_path, monkeypatch):
    new_generator().save_pretrained(tmp_path / "generator")

    def half(llama, folder):
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("transformers.LlamaForCausalLM.save_pretrained", half)
        with pytest.raises(KeyboardInterrupt):
            export_llama(str(tmp_path / "generator"), tmp_path / "llama")
    assert [path.name for path in tmp_path.iterdir()] == ["generator"]
    export_llama(str(tmp_path / "generator"), tmp_path / "llama")
