"""Places: exact in any precision, wavelengths that all say something, tokenizers from before they did."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evagen.tokenizer import VideoTokenizer
from evagen.tokenizer.places import Blocks
from evagen.tokenizer.positions import FourierPosition, Rotary, cell_centres, grid_shape, nearest_cell

PLACES = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([1.0, 0, 0]) * torch.arange(
    300, 350
).unsqueeze(1)


def tokenizer(**settings) -> VideoTokenizer:
    torch.manual_seed(0)
    return VideoTokenizer(
        levels=[2, 4], resolution=32, encoder_width=64, encoder_depth=1, encoder_heads=1, decoder_width=64,
        decoder_depth=1, decoder_heads=1, codebook_size=64, code_width=4, **settings,
    ).eval()  # fmt: skip


def turns_in_time(rotary: Rotary) -> torch.Tensor:
    """Angles, in (-π, π], by which each pair of the block axis turns from one block to the next."""
    angles = torch.view_as_complex(rotary(torch.tensor([[1.0, 0.0, 0.0]]))).angle().flatten()
    return angles[: len(angles) - 2 * (3 * len(angles) // 8)]


def test_every_pair_of_the_block_axis_tells_blocks_apart_and_no_two_alike():
    turns = turns_in_time(Rotary(64)).abs()
    assert len(turns) == 8
    assert turns.min() > 0.3  # a sixteenth of a circle
    assert turns.sort().values.diff().min() > 0.05


def test_earlier_tokenizers_had_a_pair_that_did_not():
    turns = turns_in_time(Rotary(64, finest_blocks=1.0)).abs()
    assert turns.min() < 1e-5


def test_wavelengths_must_be_positive():
    with pytest.raises(ValueError, match="must be positive; got 0 blocks"):
        Rotary(32, finest_blocks=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_angles_and_sines_are_exact_in_half_precision(dtype):
    rotary, fourier = Rotary(32), FourierPosition(8)
    turned, sines = rotary(PLACES), fourier.features(PLACES)
    with torch.autocast("cpu", dtype):
        assert torch.equal(rotary(PLACES), turned)
        assert torch.equal(fourier.features(PLACES), sines)
    assert torch.equal(rotary.to(dtype)(PLACES), turned)
    assert torch.equal(fourier.to(dtype).features(PLACES), sines)
    assert fourier(PLACES).dtype == dtype


@pytest.mark.parametrize("converted", [True, False], ids=["model", "autocast"])
def test_late_blocks_of_a_long_video_keep_their_places_in_bf16(converted):
    """bf16 has no number between 300 and 302."""
    model = tokenizer()
    tokens, vectors, blocks = torch.ones(2, 64), torch.ones(4, 4), torch.tensor([300, 301])
    if converted:
        model, tokens = model.to(torch.bfloat16), tokens.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=not converted):
        for rows in (
            model.decoder_queries(tokens, model.patches_of(Blocks(blocks, torch.tensor([1, 1]), (4, 4)))).values,
            model.embed_codes(vectors, model.tokens_of(Blocks(blocks, torch.tensor([2, 2]), (4, 4)))).values,
        ):
            one, other = rows.float().chunk(2)
            assert not torch.equal(one, other)


def test_a_converted_tokenizer_encodes_and_decodes_nearly_as_before():
    video = torch.rand(2, 3, 16, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    model = tokenizer()
    lengths = model.assignments.uniform(4, 2)
    tokens = model.encode(video, lengths)
    decoded = model.decode(tokens)
    half = model.to(torch.bfloat16)
    assert (half.encode(video.to(torch.bfloat16), lengths).codes == tokens.codes).float().mean() > 0.8
    torch.testing.assert_close(half.decode(tokens), decoded, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("setting", "before", "now"), [("finest_blocks", 1.0, 2.0), ("decoder_start", "first", "nearest")]
)
def test_a_tokenizer_without_the_setting_decodes_as_it_was_trained(tmp_path, setting, before, now):
    old, new = tokenizer(**{setting: before}), tokenizer()
    old.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    written_before = {name: value for name, value in config.items() if name != setting}
    (tmp_path / "config.json").write_text(json.dumps(written_before))
    again = VideoTokenizer.from_pretrained(tmp_path)
    assert (again.config[setting], new.config[setting]) == (before, now)
    video = torch.rand(1, 3, 16, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    tokens = old.encode(video, old.assignments.uniform(4, 1))
    assert torch.equal(old.decode(tokens), again.decode(tokens))
    assert not torch.equal(old.decode(tokens), new.decode(tokens))
    again.save_pretrained(tmp_path)  # and says so from then on
    assert json.loads((tmp_path / "config.json").read_text())[setting] == before


def test_new_tokenizers_keep_their_settings(tmp_path):
    tokenizer().save_pretrained(tmp_path)
    for model in (VideoTokenizer.from_pretrained(tmp_path), VideoTokenizer.from_config(tokenizer().config)):
        assert (model.config.finest_blocks, model.config.decoder_start) == (2.0, "nearest")


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 9))
def test_the_nearest_cell_is_the_one_whose_centre_is_nearest(num_cells, rows, columns):
    chosen = nearest_cell(num_cells, (rows, columns))
    cells = grid_shape(num_cells, rows, columns)
    apart = torch.cdist(cell_centres(rows, columns).double(), cell_centres(*cells).double())
    assert chosen.shape == (rows * columns,)
    torch.testing.assert_close(apart.gather(1, chosen[:, None])[:, 0], apart.min(1).values, atol=1e-6, rtol=0)


def test_queries_begin_from_the_token_that_stands_there():
    model, grid, lengths = tokenizer(), (4, 4), torch.tensor([4, 1, 4])
    rows = torch.arange(9.0)[:, None].expand(9, 64)
    torch.nn.init.eye_(model.start_query.weight)
    torch.nn.init.zeros_(model.decoder_position.project.weight)
    about = model.patches_of(Blocks(torch.arange(3), lengths, grid))
    begun = model.decoder_queries(rows, about).values[:, 0].view(3, 4, 4)
    quarters = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]).float()
    assert torch.equal(begun, torch.stack([quarters, torch.full((4, 4), 4.0), quarters + 5]))


def test_initial_weights_are_cut_at_two_deviations():
    model = tokenizer()
    for weight, std in ((model.embed_patches.weight, 768**-0.5), (model.decoder_level.weight, 0.02)):
        assert weight.abs().max() <= 2 * std
    assert float(model.embed_patches.weight.detach().std()) == pytest.approx(
        0.88 * 768**-0.5, rel=0.02
    )  # what the cut leaves
