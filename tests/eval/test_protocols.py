"""The protocols' facts against hand-made expectations: which clips, drawn how, and what is done with them."""

# isort: split
import json
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evagen.eval.clip_choice import ClipChoice, SourceClip, SourceVideo
from evagen.eval.protocols import PROTOCOLS, get_protocol
from evagen.scoring.clips import list_fingerprint

NAMES = [
    "larp-ucf101-recon",
    "larp-ucf101-class2video",
    "adaptok-ucf101-recon",
    "larp-k600-frame-prediction",
    "larp-k600-frame-prediction:paste-given",
    "larp-k600-frame-prediction:predicted-only",
    "evatok-ucf101-recon",
    "evatok-ucf101-class2video",
    "evatok-ucf101-class2video:gpt-b",
    "evatok-k600-frame-prediction",
    "evatok-webvid-recon",
    "styleganv-fvd2048-16f",
    "cdfvd",
    "evagen-ucf101-heldout",
]


def videos(**num_frames: int) -> list[SourceVideo]:
    return [SourceVideo(path, count, label) for label, (path, count) in enumerate(num_frames.items())]


def places(clips: list[SourceClip]) -> list[tuple[str, int, int]]:
    return [(clip.path, clip.start, clip.num_frames) for clip in clips]


# Which clips.


def test_all_clips_do_not_overlap_and_come_in_the_order_of_paths():
    clips = ClipChoice("all")(videos(b=47, a=16, c=15, d=48), 16)
    assert places(clips) == [("a", 0, 16), ("b", 0, 16), ("b", 16, 16), ("d", 0, 16), ("d", 16, 16), ("d", 32, 16)]
    assert [clip.label for clip in clips] == [1, 0, 0, 3, 3, 3]
    strided = ClipChoice("all")(videos(a=14), 4, stride=2)  # a clip spans 7 frames
    assert [(clip.start, clip.stride) for clip in strided] == [(0, 2), (7, 2)]


def test_seed_42_draws_what_python_draws():
    # The first numbers of random.Random(42).sample(range(100), 10), as the documentation of many projects has them.
    clips = ClipChoice("all", drawn=10, seed=42)([SourceVideo("a", 1600)], 16)
    assert [clip.start // 16 for clip in clips] == [81, 14, 3, 94, 35, 31, 28, 17, 13, 86]


def test_class2video_draws_ten_thousand_as_larp_does():
    # 25 classes of 40 videos with 161 to 180 frames: 10 or 11 clips each.
    listed = [SourceVideo(f"c{n % 25:02}/v{n // 25:02}.avi", 161 + n % 20, n % 25) for n in range(1000)]
    protocol = get_protocol("larp-ucf101-class2video")
    clips = protocol.real_clips(listed)
    index = []  # LARP's index map
    for path, count in sorted((video.path, video.num_frames) for video in listed):
        index += [(path, 16 * number, 16) for number in range(count // 16)]
    order = random.Random(42).sample(range(len(index)), 10_000)
    assert places(clips) == [index[number] for number in order]
    assert protocol.labels_to_generate(clips, listed) == [int(path[1:3]) for path, _, _ in places(clips)]
    assert places(protocol.real_clips(listed[::-1])) == places(clips)


def test_short_videos_are_padded_or_dropped():
    listed = videos(short=5, one=1, long=20, none=0)
    assert places(ClipChoice("first", short="pad")(listed, 16)) == [("long", 0, 16), ("one", 0, 1), ("short", 0, 5)]
    assert places(ClipChoice("first", short="drop")(listed, 16)) == [("long", 0, 16)]
    padded = ClipChoice("random", short="pad")(listed, 16)
    assert places(padded)[1:] == [("one", 0, 1), ("short", 0, 5)]


def test_the_first_videos_are_counted_after_short_ones_are_dropped():
    clips = ClipChoice("first", first_videos=2)(videos(a=20, b=15, c=16, d=30), 16)
    assert [clip.path for clip in clips] == ["a", "c"]


@given(st.integers(16, 60), st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_random_places_stay_inside_and_depend_on_their_own_video_only(count, seed):
    choice = ClipChoice("random", seed=seed)
    (alone,) = choice([SourceVideo("x/a.avi", count)], 16)
    among = choice([*videos(b=30, c=40), SourceVideo("x/a.avi", count)], 16)
    assert 0 <= alone.start <= count - 16
    assert alone in among


def test_random_places_are_evenly_spread():
    starts = [clip.start for clip in ClipChoice("random")([SourceVideo(str(n), 19) for n in range(2000)], 16)]
    assert set(starts) == {0, 1, 2, 3}
    assert all(abs(starts.count(start) - 500) < 5 * 500**0.5 for start in range(4))


def test_resampled_in_time_each_frame_is_the_nearest_and_of_two_the_earlier():
    clips = ClipChoice("all")([SourceVideo("a", 40, 3, 25.0)], 4, frames_per_second=3)
    # 0, 8.33, 16.67, 25 of the file; a clip reaches over 26 frames, so a second one would end behind the file
    assert clips == [SourceClip("a", 0, 4, 1, 3, (0, 8, 17, 25))]
    (ties,) = ClipChoice("first")([SourceVideo("a", 40, 3, 7.5)], 5, frames_per_second=3)  # 0, 2.5, 5, 7.5, 10
    assert ties.numbers == (0, 2, 5, 7, 10)
    (slow,) = ClipChoice("first")([SourceVideo("a", 40, 3, 2.0)], 5, frames_per_second=4)  # 0, 0.5, 1, 1.5, 2
    assert slow.numbers == (0, 0, 1, 1, 2)
    twice = ClipChoice("all")([SourceVideo("a", 52, 3, 25.0)], 4, frames_per_second=3)
    assert [clip.numbers for clip in twice] == [(0, 8, 17, 25), (26, 34, 43, 51)]


@given(st.integers(10, 60), st.sampled_from([12.0, 23.976, 25.0, 30000 / 1001, 60.0]), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_no_other_frame_of_the_file_is_nearer(count, rate, wanted):
    (clip,) = ClipChoice("random", short="pad")([SourceVideo("a", count, 0, rate)], 5, frames_per_second=wanted)
    assert clip.start == clip.numbers[0]
    assert len(clip.numbers) == clip.num_frames
    times = [clip.start / rate + i / wanted for i in range(5)]
    for number, time in zip(clip.numbers, times):
        gaps = [abs(other / rate - time) for other in range(count)]
        assert gaps[number] <= min(gaps) + 1e-9
    if clip.num_frames < 5:  # what is missing lies behind the end
        assert times[clip.num_frames] > (count - 0.5) / rate - 1e-9


def test_short_resampled_videos_are_padded_or_dropped_by_their_own_rates():
    listed = [SourceVideo("fast", 30, 0, 30.0), SourceVideo("slow", 30, 0, 6.0)]  # one second, five
    assert [clip.path for clip in ClipChoice("first")(listed, 4, frames_per_second=3)] == ["slow"]
    padded = ClipChoice("first", short="pad")(listed, 4, frames_per_second=3)
    assert [(clip.path, clip.numbers) for clip in padded] == [("fast", (0, 10, 20)), ("slow", (0, 2, 4, 6))]
    with pytest.raises(ValueError, match="2 videos of at least 4 frames at 3 a second are needed, and there are 1"):
        ClipChoice("first", first_videos=2)(listed, 4, frames_per_second=3)


def test_what_cannot_be_resampled_is_refused():
    with pytest.raises(ValueError, match="a does not tell its frame rate, and clips are of 3 a second"):
        get_protocol("evatok-webvid-recon").real_clips([SourceVideo("a", 100)])
    with pytest.raises(ValueError, match="stride=2 and frames_per_second=3 exclude each other"):
        ClipChoice("all")([SourceVideo("a", 100, 0, 30.0)], 4, 2, 3)


FINGERPRINTS = {
    ("all", "pad"): ("1a64b229b30c4cbe", "71e0c07a1b264f16"),
    ("first", "pad"): ("972ff3dcfe02167a", "0a81f967cea82e58"),
    ("first", "drop"): ("f0fc5efdd9b95db7", "80db9734da14ef68"),
    ("random", "pad"): ("54174fd41bcf6dee", "d7b3be9448c787e6"),
    ("random", "drop"): ("2decd6142cffe566", "1888001f6e9e685f"),
}


@pytest.mark.parametrize(("place", "short"), FINGERPRINTS)
def test_lists_of_clips_have_the_fingerprints_of_earlier_records(place, short):
    listed = [SourceVideo(f"c{n % 7}/v{n:03}.avi", 3 + n, n % 7) for n in range(60)]
    drawn = ClipChoice(place, short, drawn=20, seed=42)(listed, 16)
    strided = ClipChoice(place, short, seed=1)(listed, 5, 3)
    assert (list_fingerprint(drawn), list_fingerprint(strided)) == FINGERPRINTS[place, short]
    resampled = [replace(clip, numbers=tuple(range(clip.num_frames))) for clip in drawn]
    assert list_fingerprint(resampled) != list_fingerprint(drawn)


def test_too_few_videos_or_clips_are_counted():
    with pytest.raises(ValueError, match=r"10,000 clips of 16 frames are needed, and there are 2; .*complete"):
        get_protocol("larp-ucf101-class2video").real_clips(videos(a=32))
    with pytest.raises(ValueError, match="2,048 videos of at least 16 frames are needed, and there are 1"):
        get_protocol("styleganv-fvd2048-16f").real_clips(videos(a=32, b=4))
    with pytest.raises(ValueError, match="none of 1 videos has the 16 frames"):
        get_protocol("cdfvd").real_clips(videos(a=3))
    recon = get_protocol("larp-ucf101-recon")
    with pytest.raises(ValueError, match=r"9,537 real clips, and these 2 videos give 2; is this the .*complete\?$"):
        recon.real_clips(videos(a=32, b=4))
    assert len(recon.changed(num_real=None).real_clips(videos(a=32, b=4))) == 2
    with pytest.raises(ValueError, match="1 videos are listed twice, a among them"):
        ClipChoice("first")([*videos(a=32), *videos(a=40)], 16)


# Frame prediction.


def test_variants_score_different_frames():
    real, generated = torch.zeros(1, 3, 16, 2, 2), torch.ones(1, 3, 16, 2, 2)
    scored = {
        name: [video[0, 0, :, 0, 0].tolist() for video in get_protocol(name).scored(generated, real)]
        for name in NAMES[3:6]
    }
    assert scored == {
        "larp-k600-frame-prediction": [[1] * 16, [0] * 16],
        "larp-k600-frame-prediction:paste-given": [[0] * 5 + [1] * 11, [0] * 16],
        "larp-k600-frame-prediction:predicted-only": [[1] * 11, [0] * 11],
    }


# The table.


def test_the_table_holds_these_names():
    assert sorted(PROTOCOLS) == sorted(NAMES)
    assert all(name == protocol.name for name, protocol in PROTOCOLS.items())


FACTS = {
    "larp-ucf101-recon": ("train", 1, "random", 0, None, 128, 9537, None, "none", None, None, None),
    "adaptok-ucf101-recon": ("train", 1, "first", 0, None, 128, 9537, None, "none", None, None, None),
    "larp-ucf101-class2video": ("train", 1, "all", 42, 10000, 128, 10000, None, "none", None, None, 1.25),
    "evagen-ucf101-heldout": ("test", 1, "all", 42, 10000, 128, 10000, None, "none", None, None, 1.25),
    "larp-k600-frame-prediction": ("val", None, "all", 42, 50000, 128, 50000, None, "none", 64, None, 1.0),
    "evatok-ucf101-recon": ("train", 1, "random", 0, None, 128, 9537, None, "none", None, None, None),
    "evatok-ucf101-class2video": ("train", 1, "all", 42, 10000, 128, 10000, None, "none", None, None, 1.75),
    "evatok-ucf101-class2video:gpt-b": ("train", 1, "all", 42, 10000, 128, 10000, None, "none", None, None, 2.5),
    "evatok-k600-frame-prediction": ("val", None, "all", 42, 50000, 128, 50000, None, "none", 64, None, 1.0),
    "evatok-webvid-recon": ("val", None, "random", 0, None, 128, None, None, "none", None, None, None),
    "styleganv-fvd2048-16f": ("all", None, "random", 0, None, 256, 2048, 2048, "nearest", None, None, None),
    "cdfvd": ("all", None, "random", 0, None, 256, 13320, 2048, "truncate", None, 224, None),
}


@pytest.mark.parametrize("name", FACTS)
def test_facts(name):
    p = get_protocol(name)
    entry = (p.network_input.rounding, p.network_input.size, p.network_input.network_size)
    sides = (p.num_real, p.num_generated)
    choice = (p.clips.place, p.clips.seed, p.clips.drawn)
    assert (p.split, p.split_index, *choice, p.frames.size, *sides, *entry, p.guidance) == FACTS[name]
    assert (p.num_frames, p.stride, p.ddof, p.network, p.top_k, p.top_p) == (16, 1, 0, "i3d", None, None)


def test_what_one_protocol_alone_does():
    protocols = PROTOCOLS.values()
    assert {p.name: p.frames_per_second for p in protocols if p.frames_per_second} == {"evatok-webvid-recon": 3}
    assert {p.name: p.given_lengths for p in protocols if p.given_lengths} == {
        "evatok-k600-frame-prediction": (512, 128)
    }
    assert {p.name: (p.tokenizer_precision, p.generator_precision) for p in protocols if p.name[:6] != "evatok"} == {
        "larp-ucf101-recon": ("fp16", "fp32"),
        "adaptok-ucf101-recon": ("fp16", "fp32"),
        "larp-ucf101-class2video": ("fp16", "bf16"),
        "evagen-ucf101-heldout": ("fp16", "bf16"),
        "larp-k600-frame-prediction": ("fp32", "bf16"),
        "larp-k600-frame-prediction:paste-given": ("fp32", "bf16"),
        "larp-k600-frame-prediction:predicted-only": ("fp32", "bf16"),
        "styleganv-fvd2048-16f": ("fp32", "fp32"),
        "cdfvd": ("fp32", "fp32"),
    }


def test_published_figures_are_the_papers():
    """EVATok, tables 1 to 6. A figure stands under the protocol that it was measured by only."""
    values = {name: [value for _, value in get_protocol(name).published] for name in NAMES if name[:6] == "evatok"}
    assert values == {
        "evatok-ucf101-recon": [9.7, 13, 13, 18, 65, 80],
        "evatok-ucf101-class2video": [48, 62],
        "evatok-ucf101-class2video:gpt-b": [96, 98, 144, 155, 230],
        "evatok-k600-frame-prediction": [4.0, 4.6],
        "evatok-webvid-recon": [7.3, 32, 9.2, 33, 13, 63, 50, 73],
    }
    others = [protocol for name, protocol in PROTOCOLS.items() if name not in values]
    assert not any("EVATok" in who for protocol in others for who, _ in protocol.published)


@pytest.mark.parametrize("name", NAMES)
def test_every_protocol_explains_itself_and_goes_into_a_record(name):
    protocol = get_protocol(name)
    assert len(protocol.explanation) > 100
    assert protocol.sources
    record = json.loads(json.dumps(protocol.as_dict()))
    assert record["clips"]["seed"] == protocol.clips.seed
    assert record["network_input"]["rounding"] == protocol.network_input.rounding


@pytest.mark.parametrize("changes", [{"frames_per_second": 3}, {"num_frames": 32}, {"stride": 2}])
def test_with_other_frames_of_a_clip_the_videos_that_are_long_enough_are_scored(changes):
    protocol = get_protocol("cdfvd").changed(**changes)
    listed = [SourceVideo("long", 200, 0, 25.0), SourceVideo("short", 20, 0, 25.0)]
    assert [clip.path for clip in protocol.real_clips(listed)] == ["long"]
    assert get_protocol("larp-ucf101-class2video").changed(**changes).num_real == 10_000


def test_an_unknown_name_is_met_with_the_nearest():
    with pytest.raises(ValueError, match="no protocol 'larp-ucf-class2vid'; did you mean 'larp-ucf101-class2video'"):
        get_protocol("larp-ucf-class2vid")


def test_what_was_changed_stands_in_the_name():
    original = get_protocol("larp-ucf101-class2video")
    changed = original.changed(drawn=4, size=64)
    assert changed.name == "larp-ucf101-class2video [drawn=4, size=64]"
    assert (changed.clips.drawn, changed.clips.seed, changed.frames.size, changed.num_real) == (4, 42, 64, 4)
    assert changed.published == ()
    assert len(changed.real_clips(videos(a=100))) == 4
    assert original.clips.drawn == 10_000
    with pytest.raises(ValueError, match=r"a protocol has no drawing; there are .*drawn"):
        original.changed(drawing=4)
    with pytest.raises(ValueError, match="a protocol has no name"):
        original.changed(name="mine")


def test_sets_of_any_size_get_labels_of_real_clips():
    protocol, listed = get_protocol("cdfvd").changed(num_generated=50, num_real=None), videos(a=20, b=30, c=3)
    clips = protocol.real_clips(listed)
    labels = protocol.labels_to_generate(clips, listed)
    assert len(labels) == 50
    assert set(labels) == {0, 1}
    assert labels == random.Random(0).choices([clip.label for clip in clips], k=50)


@pytest.mark.parametrize("name", [name for name in NAMES if get_protocol(name).task == "generation"])
def test_generation_is_asked_for_all_classes_whatever_is_cut_on_the_real_side(name):
    listed = [SourceVideo(f"c{n // 40:03}/v{n % 40:02}", 30, n // 40) for n in range(101 * 40)]
    protocol = get_protocol(name).changed(num_real=None)
    labels = protocol.labels_to_generate(protocol.real_clips(listed), listed)
    assert len(labels) == 2048
    assert len(set(labels)) == 101
    fewer = protocol.changed(first_videos=40)
    assert fewer.labels_to_generate(fewer.real_clips(listed), listed) == labels


def test_fewer_videos_are_as_many_clips_only_where_each_gives_one():
    listed = videos(a=40, b=40, c=40)  # two clips each where all are taken
    for name, first, drawn in (("cdfvd", 2, None), ("larp-ucf101-class2video", 2, 3)):
        protocol = get_protocol(name).changed(first_videos=first, drawn=drawn)
        assert protocol.num_real == len(protocol.real_clips(listed)) == (drawn or first)
    everything = get_protocol("larp-ucf101-class2video").changed(first_videos=2, drawn=None)
    assert (everything.num_real, len(everything.real_clips(listed))) == (None, 4)
    with pytest.raises(ValueError, match=r"10,000 clips of 16 frames are needed, and there are 4"):
        get_protocol("larp-ucf101-class2video").changed(first_videos=2).real_clips(listed)
