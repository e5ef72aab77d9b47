"""Curation's search: the shared-prefix tree gives what reconstructing every candidate in full gives."""

import pytest
import torch

from evagen.tokenizer import CandidateSearch, RewardScale, VideoTokenizer, best_assignment, brute_force_distances
from evagen.tokenizer.search_batch import Tokens


@pytest.fixture(scope="module", params=[("block", "nearest"), ("causal", "nearest"), ("block", "first")], ids=str)
def model(request) -> VideoTokenizer:
    """With encoders whose queries see their own block, or those of earlier blocks too, and both starts of a decoder."""
    self_attention, start = request.param
    torch.manual_seed(0)
    return VideoTokenizer(
        levels=[1, 4, 6], num_frames=12, resolution=24, encoder_width=32, encoder_depth=2, encoder_heads=2,
        decoder_width=32, decoder_depth=2, decoder_heads=2, codebook_size=32, code_width=6,
        encoder_self_attention=self_attention, decoder_start=start,
    ).eval()  # fmt: skip


def block_errors(video):
    blocks = video.split(4, dim=2)

    def distance(reconstruction, clips, t):
        error = reconstruction - blocks[t][clips]
        return {"mse": error.square().flatten(1).mean(1), "l1": error.abs().flatten(1).mean(1)}

    return distance


@pytest.mark.parametrize("max_segments", [1, 7, 512])
def test_shared_prefixes_equal_brute_force(model, max_segments):
    video = torch.rand(2, 3, 12, 24, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    search = CandidateSearch(model, block_errors(video), max_segments)
    found, expected = search.all_distances(video), brute_force_distances(model, video, block_errors(video))
    assert search.block_evaluations == 2 * (3 + 9 + 27)
    for name in ("mse", "l1"):
        assert found[name].shape == (2, 27)
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=0)
    assert expected["mse"].std(1).min() > 1e-5  # the candidates do differ


def test_clips_that_do_not_fit_into_one_batch_stay_in_order(model):
    video = torch.rand(5, 3, 12, 24, 24, generator=torch.Generator().manual_seed(4)) * 2 - 1
    found = CandidateSearch(model, block_errors(video), max_segments=6).all_distances(video)["l1"]
    for clip in range(5):
        alone = video[clip : clip + 1]
        expected = CandidateSearch(model, block_errors(alone)).all_distances(alone)["l1"]
        torch.testing.assert_close(found[clip : clip + 1], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_clips", [1, 4])
def test_batches_and_what_they_remember_stay_within_the_bound(model, monkeypatch, num_clips):
    max_segments, patches, most = 9, 9, {"new": 0, "kept": 0}
    extend = model.decoder.extend

    def watched(x, context, plans, past):
        most["new"] = max(most["new"], len(x.values))
        most["kept"] = max(most["kept"], len(past.rows[0][0]) if past else 0)
        return extend(x, context, plans, past)

    monkeypatch.setattr(model.decoder, "extend", watched)
    video = torch.rand(num_clips, 3, 16, 24, 24, generator=torch.Generator().manual_seed(5)) * 2 - 1  # four blocks
    CandidateSearch(model, block_errors(video), max_segments).all_distances(video)
    assert most["new"] == max_segments * patches
    assert 0 < most["kept"] <= 3 * (max_segments // 3) * patches  # three earlier blocks of each of a batch's prefixes


def test_no_more_tokens_are_kept_than_those_of_the_prefixes_at_hand(model, monkeypatch):
    """One segment for each length where tokens do not depend on the prefix; or else those of a batch at each block."""
    sizes, add = [], Tokens.add

    def watched(self, *arguments):
        found = add(self, *arguments)
        sizes.append(len(self))
        return found

    monkeypatch.setattr(Tokens, "add", watched)
    video = torch.rand(1, 3, 16, 24, 24, generator=torch.Generator().manual_seed(5)) * 2 - 1  # four blocks
    CandidateSearch(model, block_errors(video), 9).all_distances(video)
    assert max(sizes) == (4 * 3 if model.config.encoder_self_attention == "block" else 3 + 3 * 9)


def test_what_cannot_be_searched_or_rewarded_is_told(model):
    video, space = torch.zeros(2, 3, 12, 24, 24), model.assignments
    search, distances = CandidateSearch(model, block_errors(video)), torch.rand(2, space.count)
    scale = RewardScale.min_max(space, 0.1, 0.2)
    for wrong, message in (
        (lambda: search.all_distances(video * 127.5 + 127.5), r"values in \[-1, 1\]"),
        (lambda: CandidateSearch(model, lambda *_: torch.zeros(1)).all_distances(video), "not a Tensor"),
        (lambda: search.autoregressive(video, 1.2, scale, name="lpips"), "name='lpips': the distances are called"),
        (lambda: search.autoregressive(video, 2.1, scale, name="mse"), r"between 0 .* and 2 .*; got \[2.1"),
        (lambda: RewardScale.of(distances[:, :4], space), rf"distances are \(B, {space.count}\)"),
        (lambda: RewardScale.of(-space.table().sum(1)[None].double(), space, "zscore"), "one of min-max, z-score"),
        (lambda: best_assignment(distances[0], 1.2, space, scale), rf"distances are \(B, {space.count}\)"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()


def test_some_candidates_by_brute_force_several_at_once(model):
    video = torch.rand(2, 3, 12, 24, 24, generator=torch.Generator().manual_seed(6)) * 2 - 1
    everything = brute_force_distances(model, video, block_errors(video))["mse"]
    some = torch.tensor([20, 3, 7, 26, 0])
    found = brute_force_distances(model, video, block_errors(video), model.assignments.lengths_of(some), 2)["mse"]
    torch.testing.assert_close(found, everything[:, some], atol=1e-6, rtol=0)


def test_one_candidate_by_hand(model):
    video = torch.rand(1, 3, 12, 24, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = CandidateSearch(model, block_errors(video)).all_distances(video)["mse"]
    lengths = torch.tensor([[6, 1, 4]])
    reconstruction = model.decode(model.encode(video, lengths), (24, 24))
    by_hand = (reconstruction - video).double().square().mean()
    torch.testing.assert_close(found[0, model.assignments.index_of(lengths)[0]], by_hand, atol=1e-6, rtol=0)


def test_autoregressive_search_with_a_full_beam_finds_the_best_assignment(model):
    video = torch.rand(3, 3, 12, 24, 24, generator=torch.Generator().manual_seed(2)) * 2 - 1
    distances = brute_force_distances(model, video, block_errors(video))["mse"]
    scale = RewardScale.min_max(model.assignments, float(distances.min()), float(distances.max()))
    for preference in (0.8, 1.6, 2.0):
        search = CandidateSearch(model, block_errors(video))
        found = search.autoregressive(video, preference, scale, name="mse", beam=9)
        best = best_assignment(distances, preference, model.assignments, scale)
        assert torch.equal(found, model.assignments.lengths_of(best))


def test_autoregressive_search_is_linear_in_the_number_of_blocks(model):
    video = torch.rand(2, 3, 24, 24, 24, generator=torch.Generator().manual_seed(3)) * 2 - 1
    search = CandidateSearch(model, block_errors(video))
    lengths = search.autoregressive(video, 1.2, RewardScale.min_max(model.assignments, 0.0, 1.0), name="mse")
    assert lengths.shape == (2, 6)
    assert search.block_evaluations == 2 * 3 * 6
    assert set(lengths.unique().tolist()) <= {1, 4, 6}


def test_autoregressive_search_does_not_depend_on_the_batch(model):
    video = torch.rand(5, 3, 12, 24, 24, generator=torch.Generator().manual_seed(7)) * 2 - 1
    scale = RewardScale.min_max(model.assignments, 0.25, 0.35)
    together = CandidateSearch(model, block_errors(video), 12).autoregressive(video, 2.0, scale, name="mse", beam=2)
    for clip in range(5):
        alone = video[clip : clip + 1]
        found = CandidateSearch(model, block_errors(alone)).autoregressive(alone, 2.0, scale, name="mse", beam=2)
        assert torch.equal(together[clip : clip + 1], found)
    assert len(together.unique()) > 1


@pytest.mark.parametrize("beam", [1, 2, 5])
def test_of_equals_autoregressive_search_takes_the_cheapest_in_any_batch(model, beam):
    """As `best_assignment` does: where nothing is better for more tokens, and these cost nothing."""
    scale = RewardScale.min_max(model.assignments, 0.0, 1.0)
    search = CandidateSearch(model, lambda blocks, clips, t: {"mse": torch.zeros(len(blocks))})
    lengths = search.autoregressive(torch.zeros(7, 3, 12, 24, 24), 2.0, scale, name="mse", beam=beam)
    assert lengths.tolist() == [[1, 1, 1]] * 7


def test_autoregressive_search_of_a_video_with_more_assignments_than_numbers(model):
    """With 44 blocks there are 3**44 assignments, beyond int64; none of them is numbered."""
    video = torch.rand(1, 3, 176, 24, 24, generator=torch.Generator().manual_seed(8)) * 2 - 1
    search = CandidateSearch(model, block_errors(video))
    lengths = search.autoregressive(video, 0.0, RewardScale.min_max(model.assignments, 0.0, 1.0), name="mse", beam=2)
    assert lengths.tolist() == [[1] * 44]  # at preference 0 only the length counts
