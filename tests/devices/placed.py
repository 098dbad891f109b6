"""Devices that this machine does not have: their tensors are on the CPU, but must not meet those of another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

KIND = "privateuseone"  # what torch calls the devices of others
CPU = torch.device("cpu")
COPIES = ("aten::copy_", "aten::_to_copy")
INDEXING = ("aten::index", "aten::index_put_", "aten::index_put")


class PlacedTensor(torch.Tensor):
    """A tensor of a device that does not exist."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor, device: torch.device) -> PlacedTensor:
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        placed = torch.Tensor._make_wrapper_subclass(cls, held.shape, device=device, **layout)
        placed.held = held
        return placed

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _on_one_device(operation, args, kwargs or {})

    def tolist(self) -> Any:
        return self.held.tolist()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def __repr__(self) -> str:
        return f"{self.device}: {self.held}"


class _Tensors(TorchFunctionMode):
    """Makes tensors from numbers on the CPU and moves them, as torch does out of sight of modes."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if function is torch.tensor and device is not None and torch.device(device).type == KIND:
            return torch.tensor(*args, **{**kwargs, "device": CPU}).to(device)
        if function is torch.Tensor.new_tensor and args[0].device.type == KIND:
            return torch.tensor(args[1], dtype=args[0].dtype).to(args[0].device)
        if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and args[0].device.type == KIND:
            return function(args[0], _index(args[1]), *args[2:])
        return function(*args, **kwargs)


class _Devices(TorchDispatchMode):
    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return _on_one_device(operation, args, kwargs or {})


class _Backend:
    """What torch asks the module of a kind of devices; numbers are drawn on the CPU."""

    def device_count(self) -> int:
        return 2

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_rng_state(self, device: Any) -> None:
        pass

    def set_rng_state(self, state: None, device: Any) -> None:
        pass


_setup_privateuseone_for_python_backend(backend_module=_Backend())


@contextmanager
def placed_devices() -> Iterator[None]:
    """Let tensors be made on, and moved to, the devices "privateuseone:0" and "privateuseone:1"."""
    with _Tensors(), _Devices():
        yield


def _on_one_device(operation: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Run an operation as torch does: on the device of its tensors, beside which only numbers may be on the CPU."""
    name = operation._schema.name
    tensors = [thing for thing in tree_flatten((args, kwargs))[0] if isinstance(thing, torch.Tensor)]
    meeting = [one for one in tensors if one.dim() > 0 or one.device != CPU]
    if name in INDEXING:  # positions may be on the CPU, too
        positions = {id(one) for one in tree_flatten(args[1])[0]}
        meeting = [one for one in meeting if id(one) not in positions or one.device != CPU]
    if name not in COPIES:
        _check(name, meeting)
    device = _device_of_result(name, args, kwargs, meeting)
    if kwargs.get("device") is not None and device.type == KIND:
        kwargs = {**kwargs, "device": CPU}
    result = operation(*tree_map(_held, args), **tree_map(_held, kwargs))
    known = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, PlacedTensor)}

    def placed(thing: Any) -> Any:
        if not isinstance(thing, torch.Tensor) or thing.device.type == KIND:  # placeholders of caches have a device
            return thing
        before = known.get(id(thing))  # an operation in place returns the tensor that it was given
        return before if before is not None and before.device == device else PlacedTensor(thing, device)

    return tree_map(placed, result) if device.type == KIND else result


def _device_of_result(name: str, args: tuple, kwargs: dict[str, Any], tensors: list[torch.Tensor]) -> torch.device:
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"])
    if name == "aten::copy_":
        return args[0].device
    return next((one.device for one in tensors if one.device != CPU), CPU)


def _check(name: str, tensors: list[torch.Tensor]) -> None:
    devices = {str(tensor.device) for tensor in tensors}
    if len(devices) > 1:
        raise RuntimeError(f"{name}: tensors on {' and '.join(sorted(devices))} meet")


def _index(index: Any) -> Any:
    """Return an index with tensors for lists, which torch would make on the device."""
    if isinstance(index, tuple):
        return tuple(map(_index, index))
    return torch.tensor(index) if isinstance(index, list) else index


def _held(thing: Any) -> Any:
    return thing.held if isinstance(thing, PlacedTensor) else thing
