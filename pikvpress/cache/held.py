"""What stands for keys and values that are held in a form which only our own attention reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pikvpress.cache.layer import PiKVLayer


class Held(torch.Tensor):
    """A tensor's shape without its numbers: (batch, kv_heads, length, head_dim).

    A `PiKVLayer` that holds entries of different number a head, or packed ones, gives it out in place of keys and
    values. Attention functions registered with transformers know what to do with it; its only other use is to be cut,
    ``held[:, :, :n]``, and given back to the layer, which is then cropped: so kvpress's pipeline forgets an answer.

    Raises
    ------
    ValueError
        From any other operation: whoever computes with it would compute nonsense.
    """

    layer: PiKVLayer

    @staticmethod
    def of(layer: PiKVLayer, length: int) -> Held:
        """Return what stands for the first ``length`` entries of a layer."""
        like = layer.entries.tail.keys
        shape = (*like.shape[:2], length, like.shape[3])
        held = torch.Tensor._make_wrapper_subclass(Held, shape, dtype=like.dtype, device=like.device)
        held.layer = layer
        return held

    def __repr__(self, **kwargs: Any) -> str:  # type: ignore[override]
        return f"Held(shape={tuple(self.shape)}, dtype={self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Cut along the entries; refuse everything else."""
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
            f"this layer of a PiKVCache holds entries of different number a head, or packed ones, and {function} wants "
            "one tensor: a press that compresses again, or reads the context twice, needs a DynamicCache; the model "
            "must look its attention function up with transformers (model.set_attn_implementation('sdpa') does so; "
            "eager attention does since transformers 5)"
        )
