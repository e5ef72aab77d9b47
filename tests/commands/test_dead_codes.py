"""Dead codes in a training of several processes."""

from types import SimpleNamespace

import pytest
from safetensors.torch import load_file
from two_processes import launch, shipped

from evagen.commands.train_tokenizer import check_not_sharded
from evagen.errors import UserError

TWO_PROCESSES = """
import sys
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from evagen.commands.train_tokenizer import restart_dead_codes
from evagen.run import part_processes
from evagen.tokenizer import DeadCodeRestart, VectorQuantizer

accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2
rank = accelerator.process_index
quantizer = VectorQuantizer(4, 2)
torch.nn.init.zeros_(quantizer.codebook)
dead_codes = DeadCodeRestart(quantizer, patience=2)
for step in range(3):
    codes = torch.tensor([[0, 1], [0, 2, 0]][rank])
    inputs = torch.full((len(codes), 2), 1.0 + rank)
    restart_dead_codes(dead_codes, codes, inputs, torch.randint(len(codes), (4,)), accelerator)
state = {"codebook": quantizer.codebook.data, "steps_unused": dead_codes.steps_unused}
save_file(state, f"{sys.argv[1]}/{rank}.safetensors")
accelerator.wait_for_everyone()
part_processes()
"""


def test_a_code_that_only_the_second_process_uses_stays_and_moves_are_the_firsts(tmp_path):
    (tmp_path / "both.py").write_text(TWO_PROCESSES)
    launch(str(tmp_path / "both.py"), str(tmp_path), options=shipped("ddp"))
    for rank in (0, 1):
        state = load_file(tmp_path / f"{rank}.safetensors")
        assert state["codebook"].tolist() == [[0, 0], [0, 0], [0, 0], [1, 1]]  # code 3, to the first one's vector
        assert state["steps_unused"].tolist() == [0, 0, 0, 1]


def test_learnt_codes_are_not_sharded():
    sharded, whole = SimpleNamespace(is_fsdp2=True), SimpleNamespace(is_fsdp2=False)
    check_not_sharded("fsq", False, sharded)
    check_not_sharded("vq", True, whole)
    with pytest.raises(UserError, match=r"model.quantizer=svq learns its codes.*train with DDP"):
        check_not_sharded("svq", True, sharded)
