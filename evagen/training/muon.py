"""torch's Muon with all matrices of one shape orthogonalised together: on a GPU a few large products instead of
thousands of small ones."""

from collections import defaultdict

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


class BatchedMuon(torch.optim.Muon):
    """`torch.optim.Muon` with Nesterov's momentum and the learning rate of AdamW's updates (Moonlight, arXiv
    2502.16982), whose state and results it has, up to the rounding of products. FSDP's shards are updated as it
    does."""

    def __init__(self, parameters: list[Tensor], lr: float, weight_decay: float):
        super().__init__(parameters, lr, weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update of all parameters that have gradients."""
        if any(isinstance(each, DTensor) for group in self.param_groups for each in group["params"]):
            super().step()
            return
        for group in self.param_groups:
            parameters: list[Tensor] = []
            gradients: list[Tensor] = []
            momenta: list[Tensor] = []
            self._init_group(group, parameters, gradients, momenta)
            if not parameters:
                continue
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            updates = torch._foreach_lerp(gradients, momenta, group["momentum"])
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            by_shape: defaultdict[torch.Size, list[int]] = defaultdict(list)
            for number, parameter in enumerate(parameters):
                by_shape[parameter.shape].append(number)
            for shape, numbers in by_shape.items():
                directions = orthogonalised(
                    torch.stack([updates[i] for i in numbers]),
                    group["ns_coefficients"],
                    group["ns_steps"],
                    group["eps"],
                )
                rate = group["lr"] * 0.2 * max(shape) ** 0.5
                of_shape = [parameters[i] for i in numbers]
                torch._foreach_add_(of_shape, list(directions.to(of_shape[0].dtype).unbind()), alpha=-rate)


def orthogonalised(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, epsilon: float) -> Tensor:
    """Matrices (N, rows, columns) with singular values of about one, by Newton–Schulz iterations, in bf16; in fp32 on a
    CPU that has no fast products in bf16, where they take most of a training step."""
    a, b, c = coefficients
    is_tall = matrices.shape[1] > matrices.shape[2]
    is_slow = matrices.device.type == "cpu" and not _has_fast_bf16()
    x = matrices.float() if is_slow else matrices.bfloat16()
    x = x.mT if is_tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=epsilon)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def _has_fast_bf16() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
