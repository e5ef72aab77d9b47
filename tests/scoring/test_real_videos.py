"""Real videos are known by names that are the same in every copy of a data set."""

from pathlib import Path

import datasets
from video_fixtures import moving_frames

from evagen.data.video_writer import write_video
from evagen.eval import get_protocol
from evagen.scoring.videos import ScoredData, list_videos


def test_clips_of_a_table_do_not_follow_from_the_folder_that_datasets_keeps_it_in(tmp_path, monkeypatch):
    cells = []
    for number in range(4):
        path = tmp_path / f"{number}.mkv"
        write_video(path, moving_frames(40, 32, 32, seed=number), fps=15)
        cells.append({"bytes": path.read_bytes(), "path": None})
    columns = datasets.Features({"video": datasets.Video(decode=False), "label": datasets.Value("int64")})
    table = datasets.Dataset.from_dict({"video": cells, "label": [0, 0, 1, 1]}, features=columns)
    protocol = get_protocol("larp-ucf101-recon").changed(dataset="mine", split="all", num_real=None)

    def clips(root: Path, cache: str) -> list:
        if not root.exists():
            root.mkdir()
            table.to_parquet(str(root / "train.parquet"))
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / cache))
        found = list_videos(protocol, ScoredData(root=root, layout="huggingface"))
        chosen = protocol.real_clips(found.videos)
        assert [found.files[clip.path].row for clip in chosen] == [0, 1, 2, 3]
        return chosen

    here = clips(tmp_path / "set", "one")
    assert clips(tmp_path / "set", "another") == here
    assert clips(tmp_path / "copy", "one") == here
