"""Token files of others: whatever they say is refused in words, or decoded as it says, at no cost."""

import json
from pathlib import Path

import fuzz_tokens
import pytest
import torch
from safetensors.torch import save_file
from tiny_models import tiny_tokenizer

from evagen.commands.decode import open_tokens
from evagen.data.token_file import TokenFile, read_token_file, write_token_file
from evagen.errors import UserError
from evagen.tokenizer import Rate


@pytest.fixture(scope="module")
def examples() -> list[fuzz_tokens.Example]:
    return [fuzz_tokens.Example(None), fuzz_tokens.Example(2)]


def written(example: fuzz_tokens.Example, path: Path, tensors: dict | None = None, **changes) -> Path:
    about = example.about.model_dump() | changes
    save_file({**example.tensors, **(tensors or {})}, path, {"evagen": json.dumps(about)})
    return path


@pytest.mark.parametrize("damage", fuzz_tokens.DAMAGES, ids=lambda each: each.__name__)
def test_a_damaged_file_is_refused_or_decodes_as_it_says(examples, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(fuzz_tokens, "DAMAGES", (damage,))
    monkeypatch.setattr(fuzz_tokens, "Example", lambda memory: examples[bool(memory)])
    found = fuzz_tokens.run(60, 0, tmp_path)
    assert found[damage.__name__, "refused"] > 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 100_000, "width": 100_000}, "height: Input should be less than or equal to 16384"),
        ({"height": 16_000, "width": 16_000}, "16000x16000 pixels: at most 33,554,432"),
        ({"encoded_height": 0}, "encoded_height: Input should be greater than or equal to 1"),
        ({"frames": 10**9}, "1000000000 frames in clips of 8 and 2 tiles of 32x32 are 250000000 clips"),
        ({"frames": True}, "frames: Input should be a valid integer"),
        ({"frames": "19"}, "frames: Input should be a valid integer"),
        ({"frames_per_second": 1e-9}, "frames_per_second: Input should be greater than or equal to 0.00027"),
        ({"frames_per_second": float("nan")}, "NaN is no number that JSON knows"),
        ({"tokens": 3}, "the header says .*'tokens': 3.*, the file holds"),
        ({"tiles": 3}, "the header says 3 tiles, pictures of this size are 2"),
        ({"tokenizer_fingerprint": "../evil"}, "tokenizer_fingerprint: String should match"),
        ({"source": "x" * 10**5}, "at most 65,536 are read"),
    ],
)
def test_a_header_is_within_its_bounds(examples, tmp_path, monkeypatch, changes, message):
    path = written(examples[0], tmp_path / "a.safetensors", **changes)
    monkeypatch.setattr("evagen.commands.decode.load_model", lambda *_: examples[0].model)
    with pytest.raises(UserError, match=message):
        open_tokens(path, "its own", 4, "fp32")


@pytest.mark.parametrize("number", [0, 1], ids=["clips", "memory"])
def test_a_video_goes_into_a_file_and_back_in_python(examples, tmp_path, number):
    model, tokens, path = examples[number].model, examples[number].video, str(tmp_path / "a.safetensors")
    write_token_file(path, tokens.tokens, TokenFile.of(tokens, model, 25, rate=Rate(90, 25)))
    clips, about = read_token_file(path)
    again = about.video(clips, model)
    assert torch.equal(again.tokens.codes, tokens.tokens.codes)
    assert torch.equal(again.tokens.lengths, tokens.tokens.lengths)
    assert {**vars(again), "tokens": None} == {**vars(tokens), "tokens": None}
    assert (about.asked_tokens_per_second, about.rate_window_seconds) == (90, 4)
    with pytest.raises(UserError, match=r"the file holds tokens of tokenizer \w{16}, but that of this one is \w{16}"):
        about.video(clips, tiny_tokenizer(seed=5))
    with pytest.raises(UserError, match="a video cannot be described in a token file: frames_per_second"):
        TokenFile.of(tokens, model, 0.0)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"codes": torch.zeros(10**6)}, "codes are F32, not I32 or I64"),
        ({"lengths": torch.zeros(2**40, 0, dtype=torch.int32)}, "lengths of .* are needed"),
        ({"lengths": torch.full((6, 2), 2**31 - 1, dtype=torch.int32)}, "but there are"),
        ({"lengths": torch.zeros(6, 2, dtype=torch.int32)}, "lengths run from 0 to 0"),
    ],
)
def test_tensors_are_those_of_a_token_file(examples, tmp_path, tensors, message):
    path = written(examples[0], tmp_path / "a.safetensors", tensors)
    with pytest.raises(UserError, match=message):
        read_token_file(path)


def test_codes_and_lengths_of_another_tokenizer_are_refused_before_a_frame_is_decoded(examples, tmp_path, monkeypatch):
    monkeypatch.setattr("evagen.commands.decode.load_model", lambda *_: examples[0].model)
    codes, lengths = (examples[0].tensors[name].clone() for name in ("codes", "lengths"))
    codes[-1] = 64
    with pytest.raises(UserError, match=r"codes run from 0 to 63, got \d to 64"):
        open_tokens(written(examples[0], tmp_path / "a.safetensors", {"codes": codes}), "its own", 4, "fp32")
    lengths[:] = 3
    some = {"codes": torch.zeros(36, dtype=torch.int32), "lengths": lengths}
    with pytest.raises(UserError, match=r"\[3\] are no levels"):
        open_tokens(written(examples[0], tmp_path / "a.safetensors", some, tokens=36), "its own", 4, "fp32")


def test_a_large_picture_without_the_tokens_of_its_tiles_is_refused(examples, tmp_path, monkeypatch):
    for example in examples:
        monkeypatch.setattr("evagen.commands.decode.load_model", lambda *_, model=example.model: model)
        claims = {"encoded_height": 4096, "encoded_width": 4096, "tiles": 16384}
        path = written(example, tmp_path / "a.safetensors", **claims)
        with pytest.raises(UserError, match=r"16384 tiles of 32x32 are .* clips, but there are tokens of \d"):
            open_tokens(path, "its own", 4, "fp32")


def test_a_name_with_signs_for_the_terminal_is_printed_without_them(examples):
    assert "\x1b" not in examples[0].about.model_copy(update={"source": "\x1b[2Jevil"}).summary()


def test_what_is_no_plain_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="it is no plain file"):
        read_token_file(tmp_path)


def test_json_that_says_a_thing_twice_is_refused(examples, tmp_path):
    text = examples[0].about.model_dump_json()[:-1] + ',"frames":20}'
    save_file(examples[0].tensors, tmp_path / "a.safetensors", {"evagen": text})
    with pytest.raises(UserError, match="'frames' is given twice"):
        read_token_file(tmp_path / "a.safetensors")
