"""The diffusers pipeline on tiny models: saved, loaded by diffusers, and the clips of `evagen sample`."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL.Image import Image
from scored_models import make_models
from tiny_models import tiny_block_router, tiny_tokenizer

from evagen import VideoPipeline
from evagen.ar_model import ClipTokens, LengthConstraints
from evagen.commands import sample
from evagen.config import check_config
from evagen.data.video_reader import read_frames
from evagen.errors import UserError
from evagen.sampling.rows import read_rows


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def pipeline(root):
    pipeline = VideoPipeline.of(root / "generator", root / "tokenizer", root / "router")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def saved(root, pipeline):
    pipeline.save_pretrained(root / "saved")
    return root / "saved"


def codes(output) -> list[list[int]]:
    return [clip.codes.tolist() for clip in output.tokens]


def test_saved_and_loaded_it_writes_what_sample_writes(root, tmp_path):
    VideoPipeline.of(root / "generator", root / "tokenizer").save_pretrained(tmp_path / "pipeline")
    loaded = VideoPipeline.from_pretrained(tmp_path / "pipeline")
    assert isinstance(loaded, DiffusionPipeline)
    output = loaded(["Boxing", "Boxing", "Skiing", "Skiing"], seed=3, top_p=0.9)
    config = {
        "run": {"out": str(tmp_path / "run"), "seed": 3},
        "generator": str(root / "generator"), "tokenizer": str(root / "tokenizer"), "clips_per_class": 2,
        "options": {"top_p": 0.9}, "formats": ["mkv"],
    }  # fmt: skip
    rows = read_rows(sample.main(check_config(sample.Sampling, config, "test")))
    assert [row["codes"] for row in rows] == [clip.codes.tolist() for clip in output.tokens]
    assert output.frames.shape == (4, 16, 32, 32, 3)
    for row, frames in zip(rows, output.frames):
        (path,) = (tmp_path / "run").glob(f"{row['class']}/*{row['number']}.mkv")
        assert np.abs(read_frames(path, 0, 16, 1).astype(int) - frames * 255).max() <= 1  # decoded in other batches


def test_lengths_and_what_cannot_be_done(root):
    pipeline = VideoPipeline.of(root / "generator", root / "tokenizer")
    (clip,) = pipeline([None], lengths=[8, None, 2, 2]).tokens
    assert clip.lengths[[0, 2, 3]].tolist() == [8, 2, 2]
    assert pipeline(lengths=LengthConstraints(max_length=2)).tokens[0].lengths.tolist() == [2] * 4
    with torch.no_grad():
        pipeline.tokenizer.to_pixels.bias.add_(1)
    with pytest.raises(UserError, match="trained on the tokens of tokenizer"):
        VideoPipeline(pipeline.tokenizer, pipeline.generator)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": "Boxin"}, "knows no class 'Boxin'; the nearest are Boxing"),
        ({"classes": [1]}, "classes=1: classes are given by their names"),
        ({"classes": 1}, "classes=1: classes are given by their names"),
        ({"classes": []}, "ask for no clip"),
        ({"num_videos_per_class": "2"}, "num_videos_per_class='2': give a whole number"),
        ({"generator": 3}, r"generator=3: give a torch\.Generator, or a list of them"),
        ({"num_videos_per_class": 0}, "ask for no clip"),
        ({"top_p": 0.0}, "top_p must lie in"),
        ({"temperature": "hot"}, "'temperature': 'hot'}: numbers are needed"),
        ({"lengths": [3, 3, 3, 3]}, "cannot write these clips"),
        ({"lengths": torch.tensor([2.0, 4.0])}, r"lengths=tensor\(\[2., 4.\]\): give a list of whole numbers"),
        ({"lengths": 24}, "lengths=24: give a list of whole numbers"),
        ({"lengths": [2.0, 4.0]}, "give a list of whole numbers"),
        ({"lengths": "24"}, "give a list of whole numbers"),
        ({"num_slots": 0}, "num_slots=0: at least 1"),
        ({"num_blocks": 0}, "num_blocks=0: a clip has at least 1 block"),
        ({"seed": 1.5}, "seed=1.5: give a whole number"),
        ({"seed": "1"}, "seed='1': give a whole number"),
        ({"guidance_schedule": "linaer"}, "guidance_schedule must be one of constant, linear, interval, got linaer"),
        ({"num_blocks": 9}, "cannot write these clips: this generator writes clips of 4 blocks"),
        ({"seed": 1, "generator": torch.Generator()}, "give one of them"),
        ({"classes": ["Boxing"] * 2, "generator": [torch.Generator()]}, "1 generators for 2 clips"),
        ({"output_type": "mp4"}, "'mp4': give one of np, pt, pil, latent"),
        ({"num_inference_steps": 50}, "there are no denoising steps.*give lengths="),
        ({"guidance": 2.0}, "the name is guidance_scale"),
        ({"prompt": "a fight"}, "knows classes, not text"),
        ({"tempreature": 1}, "the nearest of the sampler's is temperature"),
    ],
)
def test_a_call_that_cannot_be_followed_says_why(pipeline, arguments, message):
    with pytest.raises(UserError, match=message):
        pipeline(**arguments)


def test_tokens_that_are_not_those_of_some_clips_are_explained(pipeline):
    one, longer = (ClipTokens(torch.tensor([1, 2] * n), torch.tensor([2] * n)) for n in (4, 5))
    wrong = {"list of ClipTokens": one, "list of": None, r"of \[4, 5\] blocks": [one, longer], "of no blocks": []}
    for message, tokens in wrong.items():
        with pytest.raises(UserError, match=f"these tokens cannot be decoded: .*{message}"):
            pipeline.decode(tokens)


def test_numbers_of_numpy_and_lengths_of_tensors_are_taken(pipeline):
    (wanted,) = pipeline("Boxing", seed=4, lengths=[2, 4, 2, 8]).tokens
    (again,) = pipeline("Boxing", seed=np.int64(4), lengths=wanted.lengths).tokens
    assert torch.equal(again.codes, wanted.codes)


@pytest.mark.parametrize(
    "around", [torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)], ids=["inference", "autocast"]
)
def test_what_is_around_a_call_changes_nothing_that_is_written(pipeline, around):
    wanted = pipeline("Boxing", seed=4, guidance_scale=1.5).tokens[0]
    with around:
        assert torch.equal(pipeline("Boxing", seed=4, guidance_scale=1.5).tokens[0].codes, wanted.codes)
    assert torch.equal(pipeline("Boxing", seed=4, guidance_scale=1.5).tokens[0].codes, wanted.codes)


def test_a_lone_class_is_one_class_and_several_videos_stand_together(pipeline):
    alone = pipeline("Boxing", seed=2, output_type="latent")
    assert codes(alone) == codes(pipeline(["Boxing"], seed=2, output_type="latent"))
    several = pipeline(["Boxing", "Skiing"], seed=2, num_videos_per_class=2, output_type="latent")
    assert codes(several) == codes(pipeline(["Boxing"] * 2 + ["Skiing"] * 2, seed=2, output_type="latent"))


def test_random_numbers_come_from_a_generator_as_in_diffusers(pipeline):
    def write(**random):
        return codes(pipeline(["Boxing", None], output_type="latent", **random))

    one = write(generator=torch.Generator().manual_seed(5))
    assert one == write(generator=torch.Generator().manual_seed(5)) != write(generator=torch.Generator().manual_seed(6))
    both = write(generator=[torch.Generator().manual_seed(seed) for seed in (5, 7)])
    assert both[0] == one[0]
    assert both[1] != one[1]
    torch.manual_seed(1)  # what draws if nothing is given
    first, second = write(), write()
    torch.manual_seed(1)
    assert first == write() != second


def test_frames_are_what_diffusers_gives(pipeline):
    frames, tokens = pipeline("Boxing", seed=1, return_dict=False)
    assert frames.shape == (1, 16, 32, 32, 3)
    assert frames.dtype == np.float32
    assert 0 <= frames.min() < frames.max() <= 1
    as_tensor = pipeline("Boxing", seed=1, output_type="pt").frames  # B F C H W
    np.testing.assert_array_equal(as_tensor.permute(0, 1, 3, 4, 2).numpy(), frames)
    ((first, *rest),) = pipeline("Boxing", seed=1, output_type="pil").frames
    assert isinstance(first, Image)
    assert len(rest) == 15
    assert np.abs(np.asarray(first) - frames[0, 0] * 255).max() <= 0.51
    latents = pipeline("Boxing", seed=1, output_type="latent").frames
    assert [each.codes.tolist() for each in latents] == [each.codes.tolist() for each in tokens]
    np.testing.assert_array_equal(pipeline.decode(latents), frames)


def test_guidance_scale_is_the_samplers_guidance_and_each_clip_is_told(pipeline):
    told = []
    output = pipeline(
        ["Boxing"] * 3, seed=1, guidance_scale=3.0, num_slots=2, output_type="latent",
        callback_on_clip_end=lambda which, number, tokens: told.append((which, number, tokens)),
    )  # fmt: skip
    assert codes(output) != codes(pipeline(["Boxing"] * 3, seed=1, output_type="latent"))
    assert {which for which, _, _ in told} == {pipeline}
    assert {number: tokens.codes.tolist() for _, number, tokens in told} == dict(enumerate(codes(output)))


def test_half_precision_is_of_the_products_and_the_weights_stay(root, saved):
    for name in ("dtype", "torch_dtype"):
        half = VideoPipeline.from_pretrained(saved, **{name: torch.bfloat16})
        assert half.dtype == torch.bfloat16
    assert {part.dtype for part in (half.tokenizer, half.generator, half.router)} == {torch.float32}
    wanted = VideoPipeline.from_pretrained(saved)("Boxing", seed=1, temperature=0.0)
    found = half("Boxing", seed=1, temperature=0.0)
    assert not np.array_equal(found.frames, wanted.frames)
    assert np.abs(found.frames - wanted.frames).mean() < 0.1
    assert np.array_equal(half.to(torch.float32)("Boxing", seed=1, temperature=0.0).frames, wanted.frames)
    with pytest.raises(UserError, match=r"the tokenizer's weights are torch\.float16"):
        VideoPipeline(tiny_tokenizer().half())


def test_a_pipeline_that_cannot_compute_so_stays_as_it_was(monkeypatch):
    pipeline = VideoPipeline(tiny_tokenizer())
    with pytest.raises(UserError, match=r"dtype=torch\.int8: the pipeline computes in"):
        pipeline.to("cuda", torch.int8)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "an old GPU")
    for device in ({"device": "cuda"}, {"device": torch.device("cuda")}):
        with pytest.raises(UserError, match="an old GPU has no bf16"):
            pipeline.to(dtype=torch.bfloat16, **device)
    assert all(weight.requires_grad for weight in pipeline.tokenizer.parameters())
    assert (pipeline.dtype, pipeline.device.type) == (torch.float32, "cpu")


def test_a_video_in_any_form_becomes_the_same_tokens_and_a_video_again(pipeline, root):
    path = next((root / "arcade" / "Boxing").glob("*.avi"))
    frames = read_frames(path, 0, 16, 1)
    tokens = pipeline.encode(path, mean_tokens=20)
    assert tokens.num_tokens / tokens.num_clips <= 20
    assert pipeline.decode(tokens).shape == (1, *frames.shape)
    pictures = pipeline.decode(tokens, "pil")[0]
    floats = frames.astype(np.float32) / 255
    for given in (frames, floats, torch.from_numpy(floats).permute(0, 3, 1, 2)):
        assert torch.equal(pipeline.encode(given, mean_tokens=20).tokens.codes, tokens.tokens.codes)
    assert pipeline.encode(pictures, max_tokens=8).tokens.lengths.tolist() == [[2] * 4] * 2  # two tiles


def test_a_video_that_is_none_is_explained(pipeline):
    for given, message in (
        ("nowhere.mp4", "nowhere.mp4: cannot be read"),
        (np.zeros((16, 32, 32)), r"of shape \(16, 32, 32\): an array \(F, H, W, 3\)"),
        ([1, 2], "a list is no video"),
        (np.full((16, 32, 32, 3), 255.0), r"values from 255 to 255: an array \(F, H, W, 3\) in \[0, 1\]"),
        (torch.zeros(3, 16, 32, 32), r"of shape \(3, 16, 32, 32\): a tensor \(F, 3, H, W\)"),
    ):
        with pytest.raises(UserError, match=message):
            pipeline.encode(given)
    with pytest.raises(UserError, match="exclude each other"):
        pipeline.encode(np.zeros((4, 32, 32, 3), np.uint8), preference=1.0, mean_tokens=20)
    for dials, message in (
        ({"preference": "1"}, "preference='1': a number"),
        ({"mean_tokens": "20"}, "mean_tokens='20': a number"),
        ({"max_tokens": 20.5}, r"max_tokens=20\.5: a whole number"),
    ):
        with pytest.raises(UserError, match=message):
            pipeline.encode(np.zeros((4, 32, 32, 3), np.uint8), **dials)
    with pytest.raises(UserError, match=r"'latent': give one of np, pt, pil$"):
        pipeline.decode([], "latent")


def test_a_pipeline_without_a_part_says_which_it_lacks(root):
    alone = VideoPipeline.of(None, root / "tokenizer")
    with pytest.raises(UserError, match="this pipeline has no generator, only: tokenizer;"):
        alone("Boxing")
    with pytest.raises(UserError, match="this pipeline has no router"):
        alone.encode(np.zeros((4, 32, 32, 3), np.uint8))


def test_with_a_memory_blocks_are_encoded_as_they_go_by():
    live = VideoPipeline(tiny_tokenizer(memory_blocks=2), router=tiny_block_router())
    video = np.random.default_rng(0).integers(0, 256, (11, 40, 48, 3), np.uint8)
    tokens = live.encode(video, max_tokens=4)
    assert tokens.tokens.lengths.max() <= 4
    assert live.decode(tokens, "pt").shape == (1, 11, 3, 40, 48)
    with pytest.raises(UserError, match="this one remembers"):
        live.encode(video, mean_tokens=8)
    with pytest.raises(UserError, match="the router is a BlockRouter, and this tokenizer needs a Router"):
        VideoPipeline(tiny_tokenizer(), router=live.router)
    with pytest.raises(UserError, match="the tokenizer is a BlockRouter, a VideoTokenizer is needed"):
        VideoPipeline(live.router)


def test_what_diffusers_own_class_does_with_a_saved_pipeline(saved, pipeline):
    """It knows only its own classes by name; the folder's `pipeline.py` leads it to ours."""
    with pytest.raises(ValueError, match=r"contains custom code in pipeline.py(.|\n)*Pass `trust_remote_code=True`"):
        DiffusionPipeline.from_pretrained(saved)
    loaded = DiffusionPipeline.from_pretrained(saved, trust_remote_code=True)
    assert type(loaded) is VideoPipeline
    assert codes(loaded("Boxing", seed=4)) == codes(pipeline("Boxing", seed=4))
    with pytest.raises(UserError, match=r"the tokenizer's weights are torch\.bfloat16"):
        DiffusionPipeline.from_pretrained(
            saved, custom_pipeline=str(saved), trust_remote_code=True, torch_dtype=torch.bfloat16
        )


def test_a_variant_is_asked_for_by_its_name(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "variant", variant="fp16")
    loaded = VideoPipeline.from_pretrained(tmp_path / "variant", variant="fp16")
    assert codes(loaded("Boxing", seed=4)) == codes(pipeline("Boxing", seed=4))
    with pytest.raises(UserError, match="dtype=bfloat16: the pipeline computes in"):
        VideoPipeline.from_pretrained(tmp_path / "variant", variant="fp16", dtype="bfloat16")
    with pytest.raises(UserError, match="variant=bf16"):
        VideoPipeline.from_pretrained(tmp_path / "variant", variant="bf16")


def test_what_is_no_pipeline_is_explained(root, saved, tmp_path):
    shutil.copytree(saved, tmp_path / "damaged")
    (tmp_path / "damaged" / "tokenizer" / "diffusion_pytorch_model.safetensors").unlink()
    for source, message in (
        (root / "tokenizer", r"model_index.json is missing\), a single model"),
        (tmp_path, r"model_index.json is missing\)$"),
        (tmp_path / "damaged", "is not whole: .*no file named"),
        ("evagen/nothing", "no model evagen/nothing in the box"),
        ("one/two/three", "no pipeline at one/two/three: "),
    ):
        with pytest.raises(UserError, match=message):
            VideoPipeline.from_pretrained(source)


def test_evagen_alone_imports_no_torch():
    code = "import sys, evagen; assert 'torch' not in sys.modules; evagen.VideoPipelin"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "AttributeError: module 'evagen' has no attribute 'VideoPipelin'"
