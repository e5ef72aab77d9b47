"""What FSDP needs beside what Accelerate does: half precision as elsewhere, and weights that it has spread over
processes as whole tensors, for the log, for checkpoints, for what a run leaves.

Every function here is to be called by all processes; without FSDP each does nothing of its own.
"""

from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from accelerate.utils import convert_outputs_to_fp32
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

if TYPE_CHECKING:
    from diffusers.training_utils import EMAModel


def prepare(accelerator: Accelerator, model: nn.Module, *optimizers: Optimizer) -> tuple[nn.Module, list[Any]]:
    """`Accelerator.prepare`, with the model under autocast in FSDP 2 too, where Accelerate leaves that out: so norms,
    sums and what is put out stay in fp32 as they do on one GPU."""
    prepared, *rest = accelerator.prepare(model, *optimizers)
    if accelerator.is_fsdp2:
        # Accelerate notes the layers of its first model, and would look for them in the next, a discriminator.
        accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = None
        whole_forward = prepared.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            with accelerator.autocast():
                return whole_forward(*args, **kwargs)

        prepared.forward = convert_outputs_to_fp32(forward)
    return prepared, rest


def spread_again(model: nn.Module) -> None:
    """Drops what FSDP has put together for a forward pass that no backward pass followed. It would take it for the
    weights in the next one, though they may have changed."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """A tensor whose parts lie in several processes, in each of them whole."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_model(accelerator: Accelerator, model: ModelMixin) -> ModelMixin:
    """A model with all its weights in the main process."""
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return model
    weights = accelerator.get_state_dict(model)
    kind = next(base for base in type(model).__mro__ if not issubclass(base, FSDPModule))  # as it was before
    gathered = kind.from_config(model.config)
    if accelerator.is_main_process:
        gathered.load_state_dict(weights)
    return gathered


def average_of(model: nn.Module, decay: float) -> "EMAModel":
    """The average of a prepared model's weights."""
    from diffusers.training_utils import EMAModel  # which brings much else: two seconds that others need not wait

    return EMAModel(model.parameters(), decay=decay, foreach=True)


class WholeAverage:
    """Averaged weights as a checkpoint holds them: the state of the main process, which must therefore be that of
    all."""

    def __init__(self, average: "EMAModel"):
        self.average = average

    def state_dict(self) -> dict[str, Any]:
        state = self.average.state_dict()
        return state | {"shadow_params": [whole(tensor) for tensor in state["shadow_params"]]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pairs = zip(state["shadow_params"], self.average.shadow_params)
        self.average.load_state_dict(state | {"shadow_params": [spread_like(*pair) for pair in pairs]})


def spread_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, spread over the processes as another one of its shape is."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
