"""`evagen info` of everything that evagen makes, and of what it does not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_corpus import write_corpus
from tiny_curation import curation, write_inputs
from tiny_models import tiny_block_router, tiny_generator, tiny_router, tiny_tokenizer
from typer.testing import CliRunner
from video_fixtures import moving_frames

from evagen import __version__, cli
from evagen.commands import curate, encode, export_llama
from evagen.commands.info import main
from evagen.data.token_file import read_token_file
from evagen.data.video_writer import write_video
from evagen.errors import UserError
from evagen.kernels.names import as_argument
from evagen.kernels.weights import weights_fingerprint
from evagen.report.run_folder import LEFT_BY
from evagen.sampling.pipeline import VideoPipeline


@pytest.fixture(scope="module")
def road(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("road")
    write_inputs(root)
    curate.main(curation(root, root / "curation"))
    write_video(root / "a.mp4", moving_frames(20, 40, 56), 25)
    encode.main(root / "a.mp4", root / "a.safetensors", str(root / "tokenizer"), str(root / "router"))
    write_corpus(root / "corpus", 7)
    return root


def test_a_video_is_told_without_loading_torch(road):
    code = "import sys; from evagen.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, "info", str(road / "a.mp4")], capture_output=True, text=True)
    assert "20 of 56x40" in done.stdout
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (tiny_tokenizer, "a tokenizer"), (tiny_router, "a router of clips"), (tiny_block_router, "a router of blocks"),
        (tiny_generator, "a generator"),
    ],
)  # fmt: skip
def test_a_model_and_its_fingerprint(tmp_path, make, what):
    model = make()
    model.save_pretrained(tmp_path)
    facts = dict(main(tmp_path))
    assert facts["what"] == what
    assert facts["levels"] == str(list(model.config.levels))
    assert facts["fingerprint"] == weights_fingerprint(model.state_dict())
    assert facts["weights"].startswith(f"{sum(x.numel() for x in model.state_dict().values()) / 1e6:.1f} million")
    assert str(tmp_path) in facts["to use it"]


def test_a_generator_as_a_llama_names_its_classes_and_who_takes_it(tmp_path):
    tiny_generator().save_pretrained(tmp_path / "generator")
    export_llama.main(str(tmp_path / "generator"), tmp_path / "llama")
    facts = dict(main(tmp_path / "llama"))
    assert facts["what"] == "a generator as a Llama"
    assert facts["classes"] == dict(main(tmp_path / "generator"))["classes"]
    assert f"evagen import llama {tmp_path / 'llama'}" in facts["to use it"]


@pytest.mark.parametrize(("megabytes", "said"), [(1234, "1,234 MB"), (12.4, "12 MB"), (0.25, "0.25 MB")])
def test_sizes_are_written_out(tmp_path, megabytes, said):
    (tmp_path / "config.yaml").write_text("{}")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(int(megabytes * 2**20))  # of which the disk stores nothing
    assert dict(main(tmp_path))["on disk"] == f"{said} in 2 files"


def test_files_and_folders_of_the_road(road):
    _, about = read_token_file(road / "a.safetensors")
    tokens = dict(main(road / "a.safetensors"))
    assert tokens["what"] == "a video as tokens"
    assert f"{about.tokens} tokens" in tokens["tokens"]
    assert tokens["tokenizer"] == about.tokenizer_fingerprint
    assert f"{road / 'a.safetensors'} {road / 'a_decoded.mp4'} " in tokens["to use it"]
    assert dict(main(road / "a.mp4"))["frames"] == "20 of 56x40, 25 a second, 0.8 seconds"
    corpus = dict(main(road / "corpus"))
    assert corpus["clips"] == "7, 0 skipped"
    assert corpus["classes"] == "2: ants, bees"
    record = dict(main(road / "curation"))
    assert record["clips"] == "13, 0 skipped"
    assert record["assignments"] == "9 of 2 blocks, levels [2, 4, 8]"
    assert str(road / "tokenizer") in record["tokenizer"]


@pytest.mark.parametrize("left", sorted({name for name in LEFT_BY.values() if name.endswith(".json")}))
def test_a_run_that_the_report_calls_finished_is_not_called_unfinished(tmp_path, left):
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / left).write_text('{"clips": 3}')
    facts = dict(main(tmp_path))
    assert "not finished" not in facts["what"]
    assert facts.get("clips") == ("3" if left == "manifest.json" else None)


def test_a_pipeline_names_its_classes():
    facts = dict(main(Path("evagen/arcade")))
    assert "Asteroids" in facts["generator classes"]
    assert facts["to use it"].endswith("('evagen/arcade'), or --tokenizer evagen/arcade --router evagen/arcade")


def test_a_pipeline_says_how_to_use_the_parts_that_it_has(tmp_path):
    folder = tmp_path / "it's mine"
    VideoPipeline(tiny_tokenizer(), None, None).save_pretrained(folder)
    assert dict(main(folder))["to use it"] == (
        f"VideoPipeline.from_pretrained({str(folder)!r}), or --tokenizer {as_argument(folder)}"
    )


def test_what_has_not_finished_and_what_says_little(tmp_path):
    (tmp_path / "run" / "checkpoints" / "step_00000040").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("{}")
    assert "no checkpoint yet" in dict(main(tmp_path / "run"))["what"]
    (tmp_path / "run" / "checkpoints" / "step_00000040" / "complete").touch()
    (tmp_path / "run" / "snapshots" / "step_00000040").mkdir(parents=True)
    with (tmp_path / "run" / "large").open("wb") as file:
        file.truncate(150 * 2**20)
    facts = dict(main(tmp_path / "run"))
    assert facts["on disk"] == "150 MB in 3 files"
    assert "newest checkpoint is of step 40" in facts["what"]
    assert facts["snapshots"] == f"{tmp_path / 'run'}@40"
    (tmp_path / "run" / "snapshots" / "step_00000040" / "config.json").write_text('{"_class_name": "Router"}')
    assert dict(main(Path(facts["snapshots"])))["what"] == "a router of clips"
    with pytest.raises(UserError, match=r"run has no snapshot 50; it has: 40"):
        main(tmp_path / "run@50")
    save_file({"a": torch.zeros(3, 4)}, tmp_path / "weights.safetensors")
    assert "weights" in dict(main(tmp_path / "weights.safetensors"))["what"]
    scores = {"label": "mine", "score": {"name": "Fréchet distance", "value": 1.5, "low": None}}
    (tmp_path / "scored").mkdir()
    (tmp_path / "scored" / "record.json").write_text(json.dumps(scores))
    facts = dict(main(tmp_path / "scored"))
    assert facts["score.value"] == "1.5"
    assert "score.low" not in facts


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("missing", None, "nothing at"),
        ("empty", {}, "holds nothing that evagen makes"),
        ("strange", {"config.json": '{"_class_name": "UNet"}'}, "holds a UNet"),
        ("no.safetensors", b"no", "damaged, or no safetensors file"),
        ("no.txt", b"no", "no video that can be read"),
        ("half", {"config.json": '{"_class_name": "Router"}', "a.safetensors": "no"}, "are damaged"),
    ],
)
def test_what_it_cannot_tell_is_an_error(tmp_path, name, content, reason):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.mkdir()
        for file, text in content.items():
            (path / file).write_text(text)
    with pytest.raises(UserError, match=reason):
        main(path)


def test_the_command_and_the_version(road):
    result = CliRunner().invoke(cli.app, ["info", str(road / "corpus")])
    assert result.exit_code == 0
    assert "a token corpus" in result.output
    assert CliRunner().invoke(cli.app, ["--version"]).output == f"evagen {__version__}\n"
