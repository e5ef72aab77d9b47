"""`evagen sample` on tiny models and real files: what it leaves, resumed, over processes."""

import errno
import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import tiny_tokenizer
from tiny_sampling import OPTIONS, config_of
from two_processes import launch_anew, shipped

from evagen.ar_model import ClipRequest, SamplingOptions, VideoGenerator, sample_in_order
from evagen.commands import sample
from evagen.config import save_config
from evagen.data.video_reader import read_frames
from evagen.data.video_writer import write_video
from evagen.errors import UserError
from evagen.kernels.levels import video_to_frames
from evagen.models.loading import load_model
from evagen.sampling import rows as sample_rows
from evagen.sampling.clips import clip_seed
from evagen.sampling.rows import SampleRows, finished_rows, read_rows
from evagen.tokenizer import TokenizedClips, VideoTokenizer


@pytest.fixture(scope="module")
def samples(models) -> Path:
    return sample.main(config_of(models, models / "samples"))


def decoded(models: Path, row: dict) -> np.ndarray:
    tokens = TokenizedClips(torch.tensor(row["codes"]), torch.tensor([row["lengths"]]))
    return video_to_frames(load_model(VideoTokenizer, models / "tokenizer").decode(tokens)[0])


def test_samples_are_real_files_of_the_tokens_beside_them(models, samples):
    rows = read_rows(samples)
    assert [(row["number"], row["class"]) for row in rows] == list(enumerate(["ants"] * 3 + ["bees"] * 3))
    generator = load_model(VideoGenerator, models / "generator")
    requests = [ClipRequest(clip_seed(0, number), number // 3) for number in range(6)]
    clips = sample_in_order(generator, requests, SamplingOptions(**OPTIONS))
    for row, clip in zip(rows, clips, strict=True):
        assert (row["codes"], row["lengths"]) == (clip.codes.tolist(), clip.lengths.tolist())
        frames = read_frames(samples / row["path"])
        assert frames.shape == (8, 32, 32, 3)
        assert abs(frames.astype(int) - decoded(models, row)).max() <= 2  # FFV1 is lossless but for the colour space
    manifest = json.loads((samples / "manifest.json").read_text())
    assert (manifest["clips"], manifest["config"]["options"]["guidance"]) == (6, 1.5)
    assert {"generator_fingerprint", "tokenizer_fingerprint", "versions", "device"} < set(manifest)


def test_interrupted_sampling_goes_on_with_the_same_clips(models, samples, tmp_path):
    rows = read_rows(samples)
    out = tmp_path / "again"
    out.mkdir()
    lines = [json.dumps(row) + "\n" for row in rows]
    (out / "tokens.0.jsonl").write_text(lines[0] + lines[4] + lines[1][:20])  # killed while writing the third
    (out / "tokens.1.jsonl").write_text(lines[5])  # by another process of that run
    sample.main(config_of(models, out, slots=64))
    assert read_rows(out) == rows
    assert sorted(path.name for path in out.glob("*/*.mkv")) == [f"{number:06d}.mkv" for number in (1, 2, 3)]


def with_one_clip_lost(run: Path, out: Path) -> Path:
    shutil.copytree(run, out)
    lines = (out / "tokens.jsonl").read_text().splitlines(keepends=True)
    (out / "tokens.jsonl").write_text("".join(lines[:-1]))
    return out


def make_another_generator(models: Path, folder: Path) -> None:
    generator = load_model(VideoGenerator, models / "generator")
    generator.norm.weight.data.mul_(2)
    generator.save_pretrained(folder)


@pytest.mark.parametrize("left", ["made_from.json", "manifest.json"])
def test_clips_of_two_generators_are_not_mixed(models, samples, tmp_path, left):
    """Neither in a run that goes on, nor, as runs of before left it, where only the manifest tells."""
    out, place = with_one_clip_lost(samples, tmp_path / "out"), tmp_path / "generator"
    for name in {"made_from.json", "manifest.json"} - {left}:
        (out / name).unlink()
    shutil.copytree(models / "generator", place)
    config = config_of(models, out, generator=str(place))
    save_config(config, out)
    make_another_generator(models, place)
    before = {path: path.read_bytes() for path in out.glob("*.json*")}
    with pytest.raises(UserError, match="that were made from other generator_fingerprint than there are now; put"):
        sample.main(config)
    assert {path: path.read_bytes() for path in out.glob("*.json*")} == before
    shutil.copytree(models / "generator", place, dirs_exist_ok=True)
    assert read_rows(sample.main(config)) == read_rows(samples)


def test_a_finished_run_is_left_as_it_is(models, samples):
    """Its manifest says what it was made with, whatever there is by now."""
    manifest = (samples / "manifest.json").read_text()
    (samples / "manifest.json").write_text(manifest.replace('"torch": "', '"torch": "1.'))
    before = (samples / "manifest.json").read_text()
    sample.main(config_of(models, samples))
    assert (samples / "manifest.json").read_text() == before != manifest


def test_a_process_that_begins_again_never_hides_the_rows_of_its_file(samples, tmp_path, monkeypatch):
    """All processes read all files as they begin, at any moment of another's beginning."""
    line = json.dumps(read_rows(samples)[0]) + "\n"
    (tmp_path / "tokens.0.jsonl").write_text(line + line[:9])
    seen, write = [], Path.write_bytes

    def looked_at_from_elsewhere(path, data):
        path.open("wb").close()
        seen.append({row["number"] for row in finished_rows(tmp_path)})
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", looked_at_from_elsewhere)
    rows = SampleRows(tmp_path, 0)
    assert seen == [{0}]
    assert rows.done == {0}
    assert (tmp_path / "tokens.0.jsonl").read_text() == line


def test_rows_are_joined_one_after_another(tmp_path, monkeypatch):
    """In the order of their numbers, and with never more of them in memory than one: codes are many. A row that was
    joined already, by a process that was killed then, comes once."""
    held, most = weakref.WeakSet(), []

    class Row(dict):
        __hash__ = object.__hash__

        def __init__(self, *values):
            super().__init__(*values)
            held.add(self)
            most.append(len(held))

    for number in (5, 2, 0, 4, 3, 1):
        SampleRows(tmp_path, number % 2).add(number, codes=[number] * 9, name="é")
    (tmp_path / "tokens.jsonl").write_text((tmp_path / "tokens.1.jsonl").read_text())
    expected = [{"number": number, "codes": [number] * 9, "name": "é"} for number in range(6)]
    monkeypatch.setattr(sample_rows.json, "loads", lambda line, loads=json.loads: Row(loads(line)))
    SampleRows(tmp_path, 0).join()
    monkeypatch.undo()
    assert max(most) <= 2  # one, and the next
    assert (tmp_path / "tokens.jsonl").read_text() == "".join(json.dumps(row) + "\n" for row in expected)
    assert not list(tmp_path.glob("tokens.*.jsonl"))


def test_two_processes_write_the_same_clips(models, samples, tmp_path):
    out = tmp_path / "both"
    save_config(config_of(models, out), tmp_path / "config")
    launch_anew("-m", "evagen", "sample", str(tmp_path / "config" / "config.yaml"), options=shipped("ddp"))
    assert read_rows(out) == read_rows(samples)
    assert not list(out.glob("tokens.*.jsonl"))
    assert len(list(out.glob("*/*.mkv"))) == 6


def test_every_format(models, tmp_path):
    formats = ["png", "mp4", "gif", "avi"]
    out = sample.main(config_of(models, tmp_path / "out", formats=formats, clips_per_class=1, classes=["bees"]))
    assert sorted(path.suffix for path in (out / "bees").iterdir()) == sorted(f".{name}" for name in formats)
    assert [row["path"] for row in read_rows(out)] == ["bees/000000.mp4"]  # and no picture
    picture = np.asarray(Image.open(out / "bees" / "000000.png"))
    assert picture.shape == (2 * 32 + 2, 4 * 32 + 3 * 2, 3)  # a row for each block
    assert np.array_equal(picture[-32:, :32], decoded(models, read_rows(out)[0])[4])


def test_seconds_that_end_within_a_block(models, tmp_path):
    out = sample.main(config_of(models, tmp_path / "out", seconds=0.4, clips_per_class=1))
    assert [len(read_frames(out / row["path"])) for row in read_rows(out)] == [6, 6]


def test_lengths_as_asked(models, tmp_path):
    out = sample.main(config_of(models, tmp_path / "forced", lengths="8,free"))
    assert {row["lengths"][0] for row in read_rows(out)} == {8}
    out = sample.main(config_of(models, tmp_path / "capped", lengths={"max_tokens": 6}))
    assert max(sum(row["lengths"]) for row in read_rows(out)) <= 6


def test_a_full_disk_keeps_what_is_finished(models, samples, tmp_path, monkeypatch):
    written = []

    def until_full(path, *rest):
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        write_video(path, *rest)

    monkeypatch.setattr(sample, "write_video", until_full)
    with pytest.raises(UserError, match="is full; 2 of 6 clips are finished and stay: make room"):
        sample.main(config_of(models, tmp_path / "out"))
    monkeypatch.undo()
    sample.main(config_of(models, tmp_path / "out"))
    assert read_rows(tmp_path / "out") == read_rows(samples)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["bee"]}, "knows no class 'bee'; the nearest are bees"),
        ({"generator": "router"}, "holds a Router, a VideoGenerator is needed"),
        ({"generator": "nowhere"}, "no VideoGenerator at .*nowhere"),
        ({"generator": "predictor"}, "predicts what follows 3 given frames: give it videos"),
        ({"lengths": "8,3"}, r"lengths \[8, 3\]: 2 are needed, one for each block, each one of \[2, 4, 8\]"),
        ({"lengths": 8}, r"lengths \[8\]: 2 are needed, one for each block"),
        ({"options": {"top_p": 0}}, r"top_p must lie in \(0, 1\]"),
        ({"blocks": 1}, "writes clips of 2 blocks, not 1; for videos of any length train one with blocks="),
        ({"seconds": 60}, "writes clips of 2 blocks, not 225"),
        ({"seconds": 0.1}, "seconds=0.1 are 2 frames at 15 a second, less than one block of 4; give at least 0.267"),
        ({"formats": ["png", "mp4", "gif"], "frames_per_second": 60}, "frames_per_second=60: a .gif holds at most 50"),
        ({"seconds": 1, "blocks": 4}, "blocks=4 and seconds=1 say the same thing"),
        ({"run": {"out": "x", "seed": 20250101123000}}, "'run.seed' is 20250101123000: input should be less than"),
        (
            {"classes": ["ants"], "given": {"data": {"root": "x", "layout": "folder"}}},
            r"classes=\['ants'\] beside given: clips have the",
        ),
    ],
)
def test_bad_input_is_explained(models, tmp_path, changes, message):
    changes = {key: str(models / value) if key == "generator" else value for key, value in changes.items()}
    with pytest.raises(UserError, match=message):
        sample.main(config_of(models, tmp_path / "bad", **changes))


def test_guidance_without_class_dropout_is_explained(models, tmp_path):
    generator = load_model(VideoGenerator, models / "generator")
    generator.register_to_config(class_dropout=0.0)
    generator.save_pretrained(tmp_path / "generator")
    with pytest.raises(UserError, match="trained with class_dropout 0: sample with guidance 1, or train it"):
        sample.main(config_of(models, tmp_path / "bad", generator=str(tmp_path / "generator")))


def test_another_tokenizer_is_refused(models, tmp_path):
    tiny_tokenizer(seed=1).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="the generator was trained on the tokens of tokenizer"):
        sample.main(config_of(models, tmp_path / "bad", tokenizer=str(tmp_path / "other")))
