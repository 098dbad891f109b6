"""A GPU that is only pretended: tensors on it are on the CPU, but what a GPU refuses to compute fails."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")
GET_DEVICE, SET_DATA = torch.Tensor.device.__get__, torch.Tensor.data.__set__
ABOUT_DEVICES = (torch.device, torch._C._nn._parse_to, torch._has_compatible_shallow_copy_type)
MOVES = {torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda}


class PretendedGpu(TorchFunctionMode):
    """Inside the ``with`` block, tensors may be on `GPU`; these and others, of any size but 1, must not meet.

    A GPU also takes numbers of one element from the CPU, indices, and copies between devices.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in ABOUT_DEVICES:
            return function(*args, **kwargs)
        if function == GET_DEVICE:
            return GPU if is_there(args[0]) else function(*args)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        there = any(is_there(tensor) for tensor in tensors)
        if function == torch.Tensor.numpy and there:
            raise TypeError("cannot convert a tensor on a GPU to numpy")
        self._refuse_mixed(function, args, tensors)
        target = there if function not in MOVES else is_there(args[0])
        wanted = [leaf for leaf in tree_leaves((args, kwargs)) if is_device(leaf)]
        if function == torch.Tensor.cpu:
            target = False
        elif wanted:
            target = torch.device(wanted[0]).type == "cuda"
        elif function == torch.Tensor.to and len(tensors) > 1:
            target = is_there(tensors[1])
        args, kwargs = tree_map(lambda leaf: CPU if is_device(leaf) else leaf, (args, kwargs))
        result = function(*args, **kwargs)
        if function in MOVES and is_there(args[0]) != target and result is args[0]:
            result = result.clone()
        if function == SET_DATA:
            mark(args[0], is_there(args[1]))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and not (args and leaf is args[0]):  # which stays where it is
                mark(leaf, target)
        return result

    def _refuse_mixed(self, function: Any, args: Any, tensors: list[torch.Tensor]) -> None:
        devices = {is_there(tensor) for tensor in tensors if tensor.dim()}
        if len(devices) < 2 or function in MOVES:
            return
        if function in (torch.Tensor.copy_, SET_DATA):
            return
        if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and is_there(args[0]):
            values = [value for value in args[2:] if isinstance(value, torch.Tensor) and value.dim()]
            if all(is_there(value) for value in values):
                return
        raise RuntimeError(f"{getattr(function, '__name__', function)}: tensors are on two devices")


def is_device(leaf: Any) -> bool:
    """Return whether an argument names a device."""
    return isinstance(leaf, torch.device) or (isinstance(leaf, str) and leaf.split(":")[0] in ("cpu", "cuda"))


def is_there(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is on the pretended GPU."""
    return getattr(tensor, "is_on_pretended_gpu", False)


def mark(tensor: torch.Tensor, there: bool) -> None:
    """Say where a tensor is."""
    tensor.is_on_pretended_gpu = there  # type: ignore[attr-defined]


def moved(model: torch.nn.Module) -> torch.nn.Module:
    """Return a model, which is on the pretended GPU from now on."""
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        mark(tensor, True)
    return model
