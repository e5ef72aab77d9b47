"""The router's dials: a preference, a bound for each clip, a budget for a whole video."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from timm.layers import PatchEmbed
from tiny_models import random_clips, tiny_router, tiny_tokenizer
from torch import Tensor

from evagen.tokenizer import PREFERENCE_RANGE, AdaptiveTokenizer, AssignmentSpace, RewardScale, Router, proxy_reward
from evagen.tokenizer.router import LinearPatchEmbed, mirrored, router_features

LOW, HIGH = PREFERENCE_RANGE
SPACE = AssignmentSpace([2, 4, 8], 2)
TOTALS = set(SPACE.table().sum(-1).tolist())
preferences = st.floats(LOW, HIGH)
bounds = st.integers(SPACE.min_tokens, SPACE.max_tokens + 4)
few = settings(max_examples=25, deadline=None)


def spent(lengths: Tensor) -> float:
    return lengths.sum().item() / len(lengths)


def logits_of(router: Router, video: Tensor, preference: float) -> Tensor:
    with torch.no_grad():
        return router(router.features(video), torch.full((len(video),), preference))


class RewardRouter(Router):
    """A perfect router: its logits are the rewards of clips whose distances follow from their first pixels."""

    def forward(self, features: Tensor, preference: Tensor) -> Tensor:
        distances = torch.stack([self.distances(round(pixel * 1e6)) for pixel in features[:, 0, 0, 0].tolist()])
        return proxy_reward(
            distances, preference, self.assignments, RewardScale.min_max(self.assignments, 0.0, 1.0)
        )  # (B, A)

    def distances(self, seed: int) -> Tensor:
        """(A,), random, lower with more tokens: much lower for some clips, hardly for others."""
        random = torch.Generator().manual_seed(abs(seed))
        return torch.rand(9, generator=random).sort(descending=True).values * 4 * torch.rand((), generator=random)


@pytest.fixture(scope="module")
def perfect() -> Router:
    return RewardRouter([2, 4, 8], num_frames=8, resolution=32, patch=8, width=32, depth=1, num_heads=2).eval()


@few
@given(seed=st.integers(0, 99), preference=preferences, bound=bounds)
def test_a_bounded_assignment_is_the_most_probable_within_the_bound(seed, preference, bound):
    router, video = tiny_router(seed), random_clips(6, seed)
    chosen = router.assign(video, preference, max_tokens=bound)
    assert bool((chosen.sum(1) <= bound).all())
    for row, lengths in zip(logits_of(router, video, preference), chosen):
        candidates = [(logit.item(), a.tolist()) for logit, a in zip(row, SPACE.table()) if a.sum() <= bound]
        assert lengths.tolist() == max(candidates)[1]


@few
@given(st.integers(0, 99), preferences, st.lists(st.sampled_from(SPACE.levels), max_size=2), st.integers(0, 12))
def test_with_a_prefix_the_most_probable_of_those_that_begin_with_it_is_taken(seed, preference, prefix, spare):
    router, video = tiny_router(seed), random_clips(6, seed)
    bound = sum(prefix) + SPACE.levels[0] * (SPACE.num_blocks - len(prefix)) + spare
    chosen = router.assign(video, preference, bound, prefix)
    for row, lengths in zip(logits_of(router, video, preference), chosen):
        candidates = [
            (logit.item(), a.tolist())
            for logit, a in zip(row, SPACE.table())
            if a.sum() <= bound and a.tolist()[: len(prefix)] == prefix
        ]
        assert lengths.tolist() == max(candidates)[1]
    video_of_all = router.assign_video([video], bound, prefix=prefix)
    assert video_of_all.mean_tokens <= bound
    assert bool((video_of_all.lengths[:, : len(prefix)] == torch.tensor(prefix)).all())


@pytest.mark.parametrize("prefix", [[3], [2, 2, 2], [0]])
def test_a_prefix_that_no_assignment_has_is_explained(prefix):
    with pytest.raises(ValueError, match=r"no assignment begins with .*: a prefix has at most 2 lengths, each one of"):
        tiny_router().assign(random_clips(1), prefix=prefix)


def test_a_bound_below_the_prefix_is_explained():
    with pytest.raises(ValueError, match="max_tokens=5 cannot be met: a clip that begins with 8 takes at least 10"):
        tiny_router().assign(random_clips(1), max_tokens=5, prefix=[8])


@few
@given(seed=st.integers(0, 99), preference=preferences)
def test_a_bound_that_all_keep_changes_nothing(seed, preference):
    router, video = tiny_router(seed), random_clips(6, seed)
    assert torch.equal(router.assign(video, preference), router.assign(video, preference, SPACE.max_tokens))


@few
@given(st.integers(0, 99), preferences, bounds, st.permutations(range(7)), st.integers(1, 6))
def test_a_clips_assignment_does_not_depend_on_the_others(seed, preference, bound, order, cut):
    """The logits agree to rounding with those of the clip alone, in any batch and order; so do the assignments,
    except for clips whose two best candidates are as near as that, on which nothing can be said."""
    router, video = tiny_router(seed), random_clips(7, seed)
    shuffled = video[order]
    alone = torch.cat([logits_of(router, clip[None], preference) for clip in shuffled])
    for batch, expected in ((shuffled, alone), (shuffled[:cut], alone[:cut])):
        torch.testing.assert_close(logits_of(router, batch, preference), expected, atol=1e-4, rtol=0)
    allowed = alone.masked_fill(SPACE.table().sum(-1) > bound, -torch.inf)
    best_two = allowed.topk(2).values
    decided = best_two[:, 0] - best_two[:, 1] > 2e-4
    assume(decided.any())
    expected = torch.cat([router.assign(clip[None], preference, bound) for clip in shuffled])
    assert torch.equal(router.assign(shuffled, preference, bound)[decided], expected[decided])
    assert torch.equal(router.assign(shuffled[:cut], preference, bound)[decided[:cut]], expected[:cut][decided[:cut]])


@few
@given(
    seed=st.integers(0, 99), clips=st.integers(1, 9), mean=st.floats(SPACE.min_tokens, SPACE.max_tokens + 1),
    bound=st.none() | bounds,
)  # fmt: skip
def test_the_average_of_a_video_is_kept_by_any_router(seed, clips, mean, bound):
    """Random routers spend more at a higher preference as often as less."""
    router, video = tiny_router(seed), random_clips(clips, seed)
    batches = video.split(4)
    found = router.assign_video(batches, mean, bound)
    assert spent(found.lengths) == found.mean_tokens <= mean
    assert bound is None or bool((found.lengths.sum(1) <= bound).all())
    with_its_dials = torch.cat([router.assign(batch, found.preference, found.max_tokens) for batch in batches])
    assert torch.equal(found.lengths, with_its_dials)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(0, 99), st.floats(SPACE.min_tokens, SPACE.max_tokens), st.none() | bounds)
def test_the_largest_preference_within_the_average_is_found(perfect, clips, seed, mean, bound):
    """A perfect router spends more the higher the preference, so the largest is the one above which it is too much."""
    video = random_clips(clips, seed)
    found = perfect.assign_video([video], mean, bound)
    lowest, highest = (spent(perfect.assign(video, preference, bound)) for preference in PREFERENCE_RANGE)
    if highest <= mean:
        assert (found.preference, found.max_tokens) == (HIGH, bound)
    elif lowest <= mean:
        assert found.max_tokens == bound
        step = (HIGH - LOW) / 64
        assert spent(perfect.assign(video, min(found.preference + step + 1e-9, HIGH), bound)) > mean
    else:
        assert found.preference == LOW
        assert found.max_tokens <= (bound or SPACE.max_tokens)
        looser = range(found.max_tokens + 1, (bound or SPACE.max_tokens) + 1)
        assert all(spent(perfect.assign(video, LOW, total)) > mean for total in looser if total in TOTALS)


def test_a_budget_is_shared_out_over_the_clips_of_a_video(perfect):
    """More may go to one clip than the average, and how the clips are batched changes nothing."""
    video = random_clips(9, seed=3)
    found = perfect.assign_video([video], mean_tokens=9)
    assert found.lengths.sum(1).max() > 9
    one_by_one = perfect.assign_video(video.split(1), mean_tokens=9)
    assert torch.equal(one_by_one.lengths, found.lengths)
    assert one_by_one.preference == found.preference


def test_a_video_is_read_three_times_and_each_clip_looked_at_eleven_times(perfect, monkeypatch):
    readings, looks = [], []

    class Clips:
        def __iter__(self):
            readings.append(1)
            return iter(random_clips(9, seed=3).split(3))

    forward = RewardRouter.forward
    monkeypatch.setattr(RewardRouter, "forward", lambda *args: looks.append(1) or forward(*args))
    perfect.assign_video(Clips(), mean_tokens=9)
    assert (len(readings), len(looks)) == (3, 3 * 11)


@pytest.mark.parametrize("name", ["max_tokens", "mean_tokens"])
def test_a_budget_below_the_shortest_assignment_is_explained(name):
    router, video = tiny_router(), random_clips(2)
    message = rf"{name}=3 cannot be met: a clip takes at least 4 tokens, 2 for each of its 2 temporal blocks"
    with pytest.raises(ValueError, match=message):
        router.assign(video, max_tokens=3) if name == "max_tokens" else router.assign_video([video], 3)
    with pytest.raises(ValueError, match="nan cannot be met"):
        router.assign_video([video], float("nan"))


def test_no_clips_and_clips_that_are_gone_after_one_reading_are_explained(perfect):
    with pytest.raises(ValueError, match="no clips to assign"):
        perfect.assign_video([], 9)
    with pytest.raises(ValueError, match="put them into a list"):
        perfect.assign_video(iter([random_clips(9, seed=3)]), 9)


def test_a_router_is_asked_only_for_what_it_was_trained_for(tmp_path):
    """Of other preferences it knows nothing; those of a router that does not say are 0.8 to 1.6."""
    tiny_router(preference_range=[1.1, 1.3]).save_pretrained(tmp_path)
    router, video = Router.from_pretrained(tmp_path), random_clips(6)
    assert (router.preference_range, tiny_router().preference_range) == ((1.1, 1.3), PREFERENCE_RANGE)
    assert torch.equal(router.assign(video, 1.3), tiny_router().assign(video, 1.3))
    assert router.assign_video([video], SPACE.max_tokens).preference == 1.3
    assert 1.1 <= router.assign_video([video], SPACE.min_tokens + 1).preference <= 1.3
    for wrong in (1.0, 1.31, float("nan")):
        with pytest.raises(ValueError, match=r"trained for preferences between 1.1 .* and 1.3 .*; got"):
            router.assign(video, wrong)
    for wrong in ([1.3, 1.1], [1.0], [-1.0, 1.0]):
        with pytest.raises(ValueError, match="0 <= low <= high <= 2"):
            tiny_router(preference_range=wrong)


def test_a_router_for_one_preference_is_asked_for_no_other_and_meets_no_mean():
    router, video = tiny_router(preference_range=[0.9, 0.9]), random_clips(2)
    assert router.assign(video, 0.9).shape == (2, 2)
    with pytest.raises(ValueError, match=r"trained for the preference 0.9 alone; got 1.2: ask for what it knows"):
        router.assign(video)
    with pytest.raises(ValueError, match=r"mean_tokens=9 is met by .* 0.9 alone: give max_tokens, or a router trained"):
        router.assign_video([video], 9)
    model = AdaptiveTokenizer(tiny_tokenizer(), router)
    assert model.encode(video[0]).preference == 0.9  # in place of the usual 1.2


def test_the_patch_embedding_is_timms_convolution():
    torch.manual_seed(0)
    theirs = PatchEmbed(img_size=(16, 32), patch_size=8, in_chans=13, embed_dim=24)
    features = torch.randn(2, 13, 16, 32)
    torch.testing.assert_close(LinearPatchEmbed(theirs)(features), theirs(features), atol=1e-5, rtol=1e-5)


def test_what_moves_is_seen_where_averages_stay_the_same():
    """A chequerboard that stands still and one that changes its colours with every frame, grey from afar."""
    board = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2.0 - 1  # (H, W)
    still = board.expand(1, 3, 8, 32, 32)
    blinking = still * torch.tensor([1.0, -1.0]).repeat(4).view(1, 1, 8, 1, 1)
    router = tiny_router(downscale=4, patch=8)
    assert not torch.allclose(logits_of(router, still, LOW), logits_of(router, blinking, LOW), atol=1e-2)
    assert torch.equal(logits_of(router, still, LOW), logits_of(router, -still, LOW))


def test_what_earlier_blocks_have_shown_is_seen():
    """A second scene that comes back after another differs from one that has never been there."""
    scenes = random_clips(3, frames=1).expand(3, 3, 4, 32, 32)  # (scene, C, f, H, W)
    returning, new = (torch.cat([scenes[i] for i in order], dim=1)[None] for order in ((0, 1, 0), (0, 1, 2)))
    novelty = [
        router_features(video, 4, 4)[0, 16:] for video in (returning, new)
    ]  # two channels: one block back, two back
    for seen in novelty:
        before, two_before = seen.unflatten(-1, (3, 8)).mean((1, 3))  # (T,) each
        assert before[0] == two_before[0] == two_before[1] == 0
        assert (before[1:] > 0.5).all()
    assert novelty[0][1, :, 16:].max() == 0
    assert novelty[1][1, :, 16:].mean() > 0.5


def test_clips_of_one_frame_have_lengths_too():
    """As pictures have (EVATok supplement M); nothing in them changes."""
    router = tiny_router(5, num_frames=1, temporal_patch=1)
    pictures = random_clips(6, frames=1)
    assert router.features(pictures)[:, 3].abs().max() == 0
    assert len(router.assign(pictures).unique()) > 1


@pytest.mark.parametrize("num_frames", [4, 12])
def test_the_features_of_a_mirror_image_are_the_mirrored_features(num_frames):
    video = random_clips(2, frames=num_frames)
    torch.testing.assert_close(
        mirrored(router_features(video, 4, 4), num_frames // 4), router_features(video.flip(-1), 4, 4)
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"resolution": 48, "downscale": 2, "patch": 16},
            "48 pixels, averaged over 2, do not divide into patches of 16",
        ),
        ({"width": 100}, "width 100 is not divisible by 7 heads"),
        ({"num_heads": 0}, "width 448 is not divisible by 0 heads"),
        ({"temporal_patch": 5}, "16 frames do not divide into blocks of 5"),
    ],
)
def test_a_router_whose_settings_do_not_fit_is_explained(settings, message):
    with pytest.raises(ValueError, match=message):
        Router([2, 4], **settings)
