"""A placeholder for keys and values in a form that only our own attention can read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pikvpress.cache.layer import PiKVLayer


class Held(torch.Tensor):
    """The shape of a tensor without its data: (batch, kv_heads, length, head_dim).

    A `PiKVLayer` with packed entries, or with a different number of entries per head, returns it in place of keys and
    values. Attention functions registered with transformers can read it. The only other supported operation is to slice
    it, ``held[:, :, :n]``, and assign it back to the layer, which is then cropped: kvpress's pipeline removes an answer
    this way.

    Raises
    ------
    ValueError
        From any other operation, since the result would be meaningless.
    """

    layer: PiKVLayer

    @staticmethod
    def of(layer: PiKVLayer, length: int) -> Held:
        """Return the placeholder for the first ``length`` entries of a layer."""
        like = layer.entries.tail.keys
        shape = (*like.shape[:2], length, like.shape[3])
        held = torch.Tensor._make_wrapper_subclass(Held, shape, dtype=like.dtype, device=like.device)
        held.layer = layer
        return held

    def __repr__(self, **kwargs: Any) -> str:  # type: ignore[override]
        return f"Held(shape={tuple(self.shape)}, dtype={self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Slice along the entries; reject everything else."""
        if function is torch.ops.aten.slice.Tensor and not kwargs:
            given: list[Any] = [*args, *(0, None, None, 1)[len(args) - 1 :]]
            held, dim, first, last, step = given
            if not first and step == 1:
                whole: int = held.shape[dim]
                end = whole if last is None else min(whole, last if last >= 0 else whole + last)
                if dim == 2:
                    return Held.of(held.layer, end)
                if end == whole:
                    return Held.of(held.layer, held.shape[2])
        if function in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return Held.of(args[0].layer, args[0].shape[2])
        raise ValueError(
            f"this layer of a PiKVCache holds packed entries or a different number per head, but {function} needs one "
            "tensor: a press that compresses again, or reads the context twice, needs a DynamicCache; the model "
            "must look up its attention function through transformers (call model.set_attn_implementation('sdpa'); "
            "eager attention works since transformers 5)"
        )
