"""Linear layers for inference on a CPU, whose weights are laid out anew once so that few rows are not slow.

A generator that writes a token at a time, and a router that looks at one clip, multiply a few rows with all their
weights and should be bound by reading these from memory. The library behind `torch.nn.functional.linear` reads them at
a third of that rate or less (figures in docs/log.md). Two other ways reach it, and this module takes

    one or two rows    the product the other way round, (W xᵀ)ᵀ, which needs no other layout
    more rows          oneDNN's own layout, which inductor's freezing uses too

The packed weights are a second copy, made when first needed. They serve while gradients are off and are dropped when
the weights are moved, converted, loaded or trained; `pack_linears` allows them again. Weights that were written into
since, as an optimizer does in any mode, are packed anew. Where oneDNN is missing, nothing is packed and all works.
"""

import functools
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)
ROWS_TOLD = 16
"""What oneDNN is told to expect; the layout for so many rows was the best or near it for 3 to 4,096."""


@functools.cache
def packing_works() -> bool:
    """Whether this torch can lay weights out for oneDNN; tried once."""
    try:
        weight, x = torch.eye(3), torch.ones(3, 3)
        return bool(torch.equal(_packed_product(x, _pack(weight), None), x))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


def _pack(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight, ROWS_TOLD)


def _packed_product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


class PackedLinear(nn.Linear):
    """`torch.nn.Linear` with a second, packed copy of its weights; the same parameters and state dict."""

    may_pack = False
    packed: Tensor | None = None
    packed_version: int | None = None
    """Of the weights that were packed: torch counts how often a tensor was written into."""

    @classmethod
    def sharing(cls, linear: nn.Linear) -> "PackedLinear":
        """A layer with the same parameters, the same objects, in the same mode. Hooks of the plain layer stay there."""
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None, device="meta")  # draws no weights
        layer.weight, layer.bias = linear.weight, linear.bias
        layer.training = linear.training
        return layer

    def allow_packing(self) -> None:
        """From now on the weights stay as they are: fp32 weights on a CPU are packed when that helps. Weights changed
        afterwards by their `.data`, past everything that could notice it, need another call."""
        self.packed = None
        self.may_pack = self.weight.device.type == "cpu" and self.weight.dtype == torch.float32 and packing_works()

    def forbid_packing(self) -> None:
        self.may_pack, self.packed = False, None

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # whose compiler lays weights out by itself, and cannot read this layout
            return F.linear(x, self.weight, self.bias)  # (…, out)
        as_packed = x.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)
        if not self.may_pack or torch.is_grad_enabled() or not as_packed or not x.numel():
            return F.linear(x, self.weight, self.bias)  # (…, out)
        rows = x.numel() // self.in_features
        if rows > 2:
            version = None if self.weight.is_inference() else self.weight._version  # which has no count
            if self.packed is None or version != self.packed_version:
                self.packed, self.packed_version = _pack(self.weight), version
            return _packed_product(x, self.packed, self.bias)  # (…, out)
        two = x.reshape(rows, -1)
        two = torch.cat([two, two]) if rows == 1 else two  # one row alone would be slow again
        product = (self.weight @ two.t()).t()[:rows].contiguous().view(*x.shape[:-1], -1)  # (…, out)
        return product if self.bias is None else product + self.bias

    def train(self, mode: bool = True) -> "PackedLinear":
        if mode:
            self.forbid_packing()  # these weights are about to change
        return super().train(mode)

    def _apply(self, *arguments, **options) -> "PackedLinear":  # every move and conversion goes through here
        self.forbid_packing()
        return super()._apply(*arguments, **options)

    def _load_from_state_dict(self, *arguments, **options) -> None:
        self.forbid_packing()
        super()._load_from_state_dict(*arguments, **options)

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name not in ("may_pack", "packed")}


def pack_linears(model: Model) -> Model:
    """Lets every plain linear layer pack its weights, in a model that only infers from now on; returns the model.

    Each `nn.Linear` in the model is replaced in its parent by a `PackedLinear` with the same parameters, under the same
    name; one that stands in several places is replaced by one. A model that is an `nn.Linear` itself is returned as a
    new layer. References to plain layers that are held elsewhere stay what they were: they share the parameters, but
    pack nothing. On another device than a CPU, or in another precision than fp32, all layers compute as before."""
    replaced: dict[nn.Module, PackedLinear] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if type(module) is nn.Linear:
            if module not in replaced:
                replaced[module] = PackedLinear.sharing(module)
            if name:
                model.set_submodule(name, replaced[module])
    model = cast(Model, replaced.get(model, model))
    for module in model.modules():
        if isinstance(module, PackedLinear):
            module.allow_packing()
    return model
