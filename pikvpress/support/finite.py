"""NaN and infinite numbers, found before they choose what is kept, and named."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def total(*tensors: torch.Tensor) -> torch.Tensor:
    """Return a number on the device that is NaN or infinite if any number of the tensors is.

    A sum: one read of them, and no wait for the device until somebody looks.
    """
    return torch.stack([tensor.sum(dtype=torch.float32) for tensor in tensors]).sum()


def refuse_not_finite(layer: int, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise a ``ValueError`` that names the layer and those of its tensors that hold NaN or infinite numbers."""
    broken = [name for name, tensor in tensors.items() if not bool(total(tensor).isfinite())]
    if broken:
        raise ValueError(
            f"the {' and '.join(broken)} of layer {layer} hold NaN or infinite numbers: check the model's weights, or "
            "load it in bfloat16 or float32 if float16 has overflowed"
        )


def check_scores(layer: int, scores: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise a ``ValueError`` if scores are NaN, or what they were made of is NaN or infinite.

    The host waits for the device once.

    Parameters
    ----------
    layer : int
        Whose scores these are.
    scores : mapping of str to torch.Tensor
        By whose name; infinite ones are allowed.
    tensors : mapping of str to torch.Tensor
        Hidden states, keys and values, by what messages call them. Hidden states are looked at only if scores are NaN.
    """
    are_nan = torch.stack([score.isnan().any() for score in scores.values()])
    is_broken = ~total(tensors["keys"], tensors["values"]).isfinite()
    if not torch.cat([are_nan, is_broken[None]]).any():
        return
    refuse_not_finite(layer, tensors)
    culprits = ", ".join(name for name, wrong in zip(scores, are_nan.tolist(), strict=True) if wrong)
    raise ValueError(
        f"the scores of {culprits} in layer {layer} are NaN, though its hidden states, keys and values are finite: "
        "check the weights of its query projection, load the model in bfloat16 or float32, or leave the expert out"
    )
