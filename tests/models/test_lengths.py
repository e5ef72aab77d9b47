"""Who says the lengths: a prefix that no assignment has, or that nobody continues, is explained."""

import pytest
import torch
from tiny_models import random_clips, tiny_router, tiny_tokenizer

from evagen.commands import COMMANDS
from evagen.config import check_config
from evagen.errors import UserError
from evagen.models.lengths import LengthChoice


@pytest.mark.parametrize("others", ["router", "uniform_length"])
@pytest.mark.parametrize("prefix", [[3], [2, 2, 2], [0]])
def test_a_prefix_that_no_assignment_has(tmp_path, others, prefix):
    tiny_router().save_pretrained(tmp_path)
    values = {"router": str(tmp_path)} if others == "router" else {"uniform_length": 4}
    choice = check_config(LengthChoice, {**values, "prefix": prefix}, "test")
    with pytest.raises(UserError, match=r"prefix=\[.*\]: no assignment begins with .* each one of \[2, 4, 8\]"):
        choice.load(tiny_tokenizer())


def test_a_router_sees_clips_of_any_size_in_its_own(tmp_path):
    router = tiny_router()
    router.save_pretrained(tmp_path)
    assign = check_config(LengthChoice, {"router": str(tmp_path)}, "test").load(tiny_tokenizer())
    own = random_clips(6)
    larger = own.repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert torch.equal(assign(own), router.assign(own, 1.2))
    assert assign(larger).shape == assign(own).shape


def test_a_preference_that_the_router_was_not_trained_for(tmp_path):
    tiny_router(preference_range=[1.2, 1.2]).save_pretrained(tmp_path)
    choice = {"router": str(tmp_path)}
    check_config(LengthChoice, choice, "test").load(tiny_tokenizer())
    with pytest.raises(UserError, match=f"{tmp_path}: this router was trained for the preference 1.2 alone; got 1.3"):
        check_config(LengthChoice, {**choice, "preference": 1.3}, "test").load(tiny_tokenizer())


def test_a_prefix_beside_random_lengths():
    with pytest.raises(UserError, match=r"prefix=\[4\] needs router or uniform_length beside it"):
        COMMANDS["train-tokenizer"].load("quickstart/proxy", ["prefix=[4]"])
    COMMANDS["train-tokenizer"].load("quickstart/proxy", ["prefix=[4]", "uniform_length=16"])
