"""Networks that are looked through and never trained."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Frozen(nn.Module):
    """Holds a network out of the sight of whatever trains, saves or wraps the module that it is part of.

    The network moves with `to()`; but it stays in eval mode, has no part in `parameters()`, `buffers()` nor in the
    state dict, and neither `requires_grad_()` nor DistributedDataParallel finds it. Gradients flow through it.

    Args:
        network: frozen in place; a scripted module too.
    """

    network: nn.Module

    def __init__(self, network: nn.Module):
        super().__init__()
        for parameter in network.parameters():  # a scripted module has no requires_grad_ of its own
            parameter.requires_grad_(False)
        for module in network.modules():  # what it keeps outside of its buffers would be copied at every call
            for name in [name for name, value in vars(module).items() if isinstance(value, Tensor)]:
                constant = vars(module).pop(name)
                module.register_buffer(name, constant, persistent=False)
        object.__setattr__(self, "network", network.eval())  # unseen by nn.Module's registry

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Frozen":
        self.network._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network makes of the same arguments."""
        return self.network(*args, **kwargs)
