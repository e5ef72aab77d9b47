"""Curation and tokenization on real files: one process or two, resumed, skipped, refused."""

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tiny_curation import (
    curation,
    inputs,
    made_up_record,
    routing,
    tokenization,
    write_inputs,
)
from tiny_models import tiny_router, tiny_tokenizer
from torchmetrics.functional.image.lpips import _LPIPS
from two_processes import launch

from evagen.commands import curate, tokenize, train_router
from evagen.config import save_config
from evagen.data import clips as clips_module
from evagen.data.clips import ClipDataset
from evagen.data.corpus import Windows, read_corpus
from evagen.data.curation_record import read_record
from evagen.data.loader import collate_clips
from evagen.data.square_clips import read_square
from evagen.data.table_parts import PartWriter
from evagen.data.video_reader import VideoError
from evagen.errors import UserError
from evagen.eval import LPIPSDistance
from evagen.kernels.folder_lock import locks_end
from evagen.tokenizer import Router, VideoTokenizer
from evagen.training.metrics import read_metrics

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The inputs, and what one process makes of them."""
    root = tmp_path_factory.mktemp("curation")
    write_inputs(root)
    curate.main(curation(root, root / "curated"))
    tokenize.main(tokenization(root, root / "tokens"))
    tokenize.main(tokenization(root, root / "epochs", epochs=3))
    return root


def test_with_fewer_segments_it_goes_on_where_memory_ran_out(root, tmp_path, monkeypatch):
    measure, calls = curate._measure, []

    def runs_out(*given):
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return measure(*given)

    monkeypatch.setattr(curate, "_measure", runs_out)
    with pytest.raises(torch.OutOfMemoryError):
        curate.main(curation(root, tmp_path))
    monkeypatch.undo()
    config = curation(root, tmp_path)
    curate.main(config.model_copy(update={"max_segments": config.max_segments - 1}))
    assert read_record(tmp_path).space.count == read_record(root / "curated").space.count


@pytest.fixture(scope="module")
def record(root) -> Path:
    return made_up_record(root)


def rows(table: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(table.glob("*.arrow"))]


def interrupt(stage: Callable[[], object], parts: int) -> None:
    """Runs a stage that saves every batch and is interrupted after some."""
    save, left = PartWriter.save, [parts]

    def save_or_stop(self) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        save(self)

    with locks_end(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartWriter, "save", save_or_stop)
        with pytest.raises(KeyboardInterrupt):
            stage()


TWO_PROCESSES = """
import sys
from pathlib import Path
from accelerate import PartialState
from evagen.commands import curate, tokenize, train_router
from evagen.config import load_config
from evagen.run import part_processes

stages = {
    "curated": (curate, curate.Curation), "tokens": (tokenize, tokenize.Tokenization),
    "epochs": (tokenize, tokenize.Tokenization),
    "router": (train_router, train_router.RouterTraining),
}
for path in sys.argv[1:]:
    stage, schema = stages[Path(path).parent.name]
    stage.main(load_config(schema, path))
assert PartialState().num_processes == 2
part_processes()
"""


def test_two_processes_fresh_or_going_on_equal_one(root, record, tmp_path):
    """Real processes under `accelerate launch`, which needs `--multi_gpu` to start several on CPUs too; what they go
    on with was begun by one."""
    begun = (
        curation(root, tmp_path / "curated", save_seconds=0),
        tokenization(root, tmp_path / "tokens", save_seconds=0),
        tokenization(root, tmp_path / "epochs", save_seconds=0, epochs=3),
    )
    interrupt(lambda: curate.main(begun[0]), parts=3)
    interrupt(lambda: tokenize.main(begun[1]), parts=2)
    interrupt(lambda: tokenize.main(begun[2]), parts=10)
    assert len(list((tmp_path / "curated" / "record.parts").glob("*.arrow"))) == 3
    fresh = curation(root, tmp_path / "fresh" / "curated"), tokenization(root, tmp_path / "fresh" / "tokens")
    router = routing(record, tmp_path / "router")
    configs = [str(save_config(config, config.run.out)) for config in (*begun, *fresh, router)]
    (tmp_path / "both.py").write_text(TWO_PROCESSES)
    launch(str(tmp_path / "both.py"), *configs)
    for folder in (tmp_path, tmp_path / "fresh"):
        assert rows(folder / "curated" / "record") == rows(root / "curated" / "record")
        assert rows(folder / "tokens" / "table") == rows(root / "tokens" / "table")
        assert folder.name == "fresh" or rows(folder / "epochs" / "table") == rows(root / "epochs" / "table")
        assert sorted(os.listdir(folder / "curated")) == [".lock", "config.yaml", "record"]
        assert sorted(os.listdir(folder / "tokens")) == [".lock", "config.yaml", "table"]
    assert (tmp_path / "tokens" / "table" / "about.json").read_text() == (
        root / "tokens" / "table" / "about.json"
    ).read_text()
    assert [line["step"] for line in read_metrics(tmp_path / "router")] == [1, 2, 3, 4, 5]
    assert Router.from_pretrained(tmp_path / "router").assignments.num_blocks == 2


def test_the_corpus_has_each_clip_and_then_its_mirror_image(root):
    corpus = read_corpus(root / "tokens")
    tokenizer = VideoTokenizer.from_pretrained(root / "tokenizer").eval()
    router = Router.from_pretrained(root / "router").eval()
    clips = collate_clips(list(ClipDataset(tokenization(root, root / "tokens").data)))
    assert corpus.table["flipped"][:].tolist() == [False, True] * 13
    assert corpus.table["path"][:] == [path for path in clips.paths for _ in range(2)]
    for row, video in ((6, clips.video[3:4]), (7, clips.video[3:4].flip(-1))):
        tokens = tokenizer.encode(video, router.assign(video, 1.2))
        assert torch.equal(corpus.table[row]["lengths"], tokens.lengths[0])
        assert torch.equal(corpus.table[row]["codes"], tokens.codes)
    straight = tokenization(root, root / "straight", flips=False)
    tokenize.main(straight)
    assert not any(read_corpus(root / "straight").table["flipped"])


def test_several_epochs_have_other_clips_of_the_same_videos(root):
    corpus, config = read_corpus(root / "epochs"), tokenization(root, root / "epochs", epochs=3)
    one, clips = read_corpus(root / "tokens").table, ClipDataset(config.data)
    assert len(clips) == 13
    expected = [clips[key] for key in range(39)]
    assert corpus.table["start"][:].tolist() == [clip.start for clip in expected for _ in range(2)]
    assert corpus.table["path"][:] == [clip.path for clip in expected for _ in range(2)]
    assert corpus.table["flipped"][:].tolist() == [False, True] * 39
    for name in ("codes", "lengths", "label", "start"):  # an epoch more changes nothing in those before
        assert [str(row) for row in corpus.table[name][:26]] == [str(row) for row in one[name][:]]
    starts = corpus.table["start"][::2].reshape(3, 13)
    assert len({tuple(epoch) for epoch in starts.tolist()}) == 3
    video = expected[30].video[None]
    tokenizer = VideoTokenizer.from_pretrained(root / "tokenizer").eval()
    router = Router.from_pretrained(root / "router").eval()
    assert torch.equal(corpus.table[60]["codes"], tokenizer.encode(video, router.assign(video, 1.2)).codes)
    assert len(Windows(corpus)) == 78


@pytest.mark.parametrize("place", ["first", "centre", "all"])
def test_epochs_that_would_all_be_the_same_are_refused(root, tmp_path, place):
    data = {**inputs(root, tmp_path)["data"], "clip": place}
    with pytest.raises(UserError, match=f"epochs=2: nothing is random in the clips of data.clip={place}"):
        tokenization(root, tmp_path, epochs=2, data=data)
    assert tokenization(root, tmp_path, epochs=2, data={**data, "crop": "random"}).epochs == 2
    assert tokenization(root, tmp_path, epochs=1, data=data).epochs == 1


def test_clips_that_cannot_be_decoded_are_listed_and_left_out(root, tmp_path, monkeypatch, capsys):
    def fails_for_some(path, *rest):
        if path.endswith(("ants/1.avi", "cats/0.avi", "cats/1.avi")):
            raise VideoError(path, "broken in the middle")
        return read_square(path, *rest)

    monkeypatch.setattr(clips_module, "read_square", fails_for_some)
    curate.main(curation(root, tmp_path / "curated"))
    printed = capsys.readouterr().out
    assert "3 of 13 files skipped:" in printed
    assert "ants/1.avi: broken in the middle" in printed
    assert read_record(tmp_path / "curated").keys.tolist() == [0, 2, 3, 4, 5, 6, 7, 8, 11, 12]


def test_the_distance_can_be_lpips(root, tmp_path):
    torch.manual_seed(0)
    weights = _LPIPS(net="vgg", pnet_rand=True).net.state_dict()
    weights = {f"features.{name.split('.', 1)[1]}": value for name, value in weights.items()}
    torch.save(weights, tmp_path / "vgg16.pth")
    config = curation(root, tmp_path / "out", compare={"network": "lpips", "vgg16": str(tmp_path / "vgg16.pth")})
    config.data.limit = 2
    curate.main(config)
    record, tokenizer = read_record(tmp_path / "out"), VideoTokenizer.from_pretrained(root / "tokenizer").eval()
    video = collate_clips([record.open_clips()[1]]).video
    lengths = record.space.lengths_of(torch.tensor([5]))
    with torch.no_grad():
        reconstruction = tokenizer.decode(tokenizer.encode(video, lengths))
        first_frames = slice(None), slice(None), slice(None, None, 4)  # of each block
        distances = LPIPSDistance(tmp_path / "vgg16.pth").video_distance(
            reconstruction[first_frames], video[first_frames]
        )
    torch.testing.assert_close(record.perceptual[1, 5], distances.mean().double(), atol=1e-6, rtol=1e-4)


def test_a_corpus_of_uniform_lengths_needs_no_router(root, tmp_path):
    config = tokenization(root, tmp_path, router=None, uniform_length=8, flips=False)
    table = read_corpus(tokenize.main(config)).table
    assert table["lengths"][:].tolist() == [[8, 8]] * 13
    clips = ClipDataset(config.data)
    video = collate_clips([clips[0], clips[1]]).video
    tokens = VideoTokenizer.from_pretrained(root / "tokenizer").eval().encode(video, torch.tensor([[8, 8]] * 2))
    assert [row["codes"].tolist() for row in table.select([0, 1])] == [clip.codes.tolist() for clip in tokens.split()]


# Refusals


def test_an_unfinished_record_says_how_far_it_is(root, tmp_path):
    config = curation(root, tmp_path, save_seconds=0)
    interrupt(lambda: curate.main(config), parts=3)
    with pytest.raises(
        UserError, match="no finished curation record: 6 of 13 clips done; run `evagen curate` with the"
    ):
        read_record(tmp_path)
    with pytest.raises(UserError, match="holds a run with another config"):
        curate.main(curation(root, tmp_path, save_seconds=0, batch_size=3))
    curate.main(config)
    assert rows(tmp_path / "record") == rows(root / "curated" / "record")
    with pytest.raises(UserError, match="holds a run with another config"):  # finished or not
        curate.main(curation(root, tmp_path, distance_frames=2))


def test_how_a_stopped_curation_is_carried_out_may_change(root, tmp_path):
    interrupt(lambda: curate.main(curation(root, tmp_path, save_seconds=0)), parts=3)
    changed = curation(root, tmp_path, max_segments=5)
    changed.run.num_workers, changed.run.attention = 1, "torch"
    curate.main(changed)
    straight, gone_on = read_record(root / "curated"), read_record(tmp_path)
    assert torch.equal(gone_on.keys, straight.keys)
    torch.testing.assert_close(gone_on.perceptual, straight.perceptual, atol=1e-5, rtol=0)


def test_an_unfinished_corpus_says_how_far_it_is(root, tmp_path):
    interrupt(lambda: tokenize.main(tokenization(root, tmp_path, save_seconds=0)), parts=4)
    with pytest.raises(UserError, match="no finished token corpus: 8 of 13 clips done; run `evagen tokenize` with the"):
        read_corpus(tmp_path)


def test_a_tokenizer_that_changed_is_noticed(root, tmp_path):
    shutil.copytree(root / "tokenizer", tmp_path / "tokenizer")
    config = curation(root, tmp_path / "out", tokenizer=str(tmp_path / "tokenizer"), save_seconds=0)
    interrupt(lambda: curate.main(config), parts=3)
    tiny_tokenizer(seed=1).save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(UserError, match="results that were made from other tokenizer than there are now"):
        curate.main(config)
    shutil.copytree(root / "tokenizer", tmp_path / "tokenizer", dirs_exist_ok=True)
    curate.main(config)
    tiny_tokenizer(seed=1).save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(
        UserError, match=r"was measured with tokenizer \w{16}, but that of .* is \w{16}: run `evagen curate`"
    ):
        read_record(tmp_path / "out")
    shutil.rmtree(tmp_path / "tokenizer")
    assert len(read_record(tmp_path / "out").keys) == 13  # the record is enough


def test_videos_that_changed_are_noticed(root, tmp_path):
    shutil.copytree(root / "videos", tmp_path / "videos")
    config = curation(root, tmp_path / "out")
    config.data.root = tmp_path / "videos"
    curate.main(config)
    (tmp_path / "videos" / "bees" / "0.avi").unlink()
    with pytest.raises(UserError, match=r"the usable videos in .* are not those that the record was made from"):
        read_record(tmp_path / "out").open_clips()


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        (
            curate,
            {"data": {"size": 64}},
            "at 64 pixels, the tokenizer works on 8 frames at 32 pixels: change data",
        ),
        (curate, {"compare": {"network": "lpips", "vgg16": "/nowhere.pth"}}, "there is no file /nowhere.pth"),
        (
            tokenize,
            {"data": {"frames": 4}},
            "of 4 frames at 32 pixels, the tokenizer works on 8 frames at 32",
        ),
        (tokenize, {"router": None}, "give either router, or uniform_length"),
        (tokenize, {"uniform_length": 4}, "give either router, or uniform_length"),
        (tokenize, {"prefix": [2, 3]}, r"prefix=\[2, 3\]: no assignment begins with"),
        (tokenize, {"router": None, "uniform_length": 5}, "uniform_length=5: the tokenizer's lengths are"),
        (
            tokenize,
            {"router": "other"},
            r"other does not fit: the tokenizer has levels \[2, 4, 8\] .* the router \[4, 8\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused(root, tmp_path, stage, changes, message):
    tiny_router(levels=[4, 8]).save_pretrained(tmp_path / "other")
    make = curation if stage is curate else tokenization
    data = {**inputs(root, tmp_path)["data"], **changes.get("data", {})}
    router = {"router": str(tmp_path / "other")} if changes.get("router") else {}
    with pytest.raises(UserError, match=message):
        stage.main(make(root, tmp_path / "out", **{**changes, "data": data, **router}))


def test_a_record_of_an_earlier_version_is_explained(record, tmp_path):
    """Before still backgrounds were measured, there was no such column."""
    Dataset.load_from_disk(record / "record").remove_columns(["still_mse"]).save_to_disk(tmp_path / "record")
    shutil.copy(record / "record" / "about.json", tmp_path / "record")
    with pytest.raises(UserError, match=r"earlier version: it has no column still_mse. Run `evagen curate` again"):
        read_record(tmp_path)


def test_classes_that_are_left_out_have_no_number(root, tmp_path):
    """Or a generator would offer to write classes that it never saw."""
    config = tokenization(root, tmp_path / "some")
    some = config.data.model_copy(update={"without_classes": ["ants"]})
    tokenize.main(config.model_copy(update={"data": some}))
    corpus, every = read_corpus(tmp_path / "some"), read_corpus(root / "tokens")
    assert (corpus.class_names, every.class_names) == (["bees", "cats"], ["ants", "bees", "cats"])
    of_paths = {row["path"]: every.class_names[row["label"]] for row in every.table}
    assert {row["path"]: corpus.class_names[row["label"]] for row in corpus.table}.items() <= of_paths.items()
    assert {int(row["label"]) for row in corpus.table} == {0, 1}


def test_too_many_candidates_are_refused(root, tmp_path):
    """Clips of a tokenizer with a memory may be long: 3 lengths for 16 blocks are 43 million assignments."""
    tiny_tokenizer(num_frames=64, memory_blocks=2).save_pretrained(tmp_path / "long")
    config = curation(root, tmp_path / "out", tokenizer=str(tmp_path / "long"))
    config = config.model_copy(update={"data": config.data.model_copy(update={"frames": 64})})
    with pytest.raises(UserError, match="16 blocks have 43,046,721 candidate assignments, more than"):
        curate.main(config)


def test_weights_make_the_distance_and_nothing_else(root, tmp_path):
    plain = read_record(root / "curated")
    curate.main(curation(root, tmp_path / "weighted", motion_weight=3.0, mse_weight=5.0))
    weighted = read_record(tmp_path / "weighted")
    assert torch.equal(plain.distance, plain.perceptual)
    assert torch.equal(weighted.perceptual, plain.perceptual)
    torch.testing.assert_close(weighted.distance, plain.perceptual + 3 * plain.moving_mse + 5 * plain.mse)
    assert weighted.moving_mse.max() > 0


def test_mirrored_measures_the_mirror_images(root, tmp_path):
    """As if the videos themselves were mirrored; and no router learns from such a record."""
    batch = collate_clips([read_record(root / "curated").open_clips()[0]])
    config = curation(root, tmp_path / "mirrored", mirrored=True)
    curate.main(config)
    tokenizer, perceptual = VideoTokenizer.from_pretrained(root / "tokenizer"), config.compare.load()
    mirror = dataclasses.replace(batch, video=batch.video.flip(-1))
    (row,) = curate._measure(mirror, tokenizer, perceptual, curation(root, tmp_path / "plain"))
    record = read_record(tmp_path / "mirrored")
    torch.testing.assert_close(record.perceptual[0], torch.from_numpy(row["perceptual"]).double(), atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match=r"is of mirror images, .* curate without mirrored=true"):
        train_router.main(routing(tmp_path / "mirrored", tmp_path / "router"))
