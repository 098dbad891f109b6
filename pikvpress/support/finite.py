"""Detection of NaN and infinite numbers before they affect which entries are kept."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def total(*tensors: torch.Tensor) -> torch.Tensor:
    """Return a scalar on the device that is NaN or infinite if any number in the tensors is.

    It is a sum: the tensors are read once, and the host does not synchronise until the value is read.
    """
    return torch.stack([tensor.sum(dtype=torch.float32) for tensor in tensors]).sum()


def refuse_not_finite(layer: int, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise a ``ValueError`` that names the layer and its tensors with NaN or infinite numbers, if there are any."""
    broken = [name for name, tensor in tensors.items() if not bool(total(tensor).isfinite())]
    if broken:
        raise ValueError(
            f"the {' and '.join(broken)} of layer {layer} contain NaN or infinite numbers: check the model's weights, "
            "or load it in bfloat16 or float32 if float16 has overflowed"
        )


def check_scores(layer: int, scores: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise a ``ValueError`` if scores are NaN, or their inputs are NaN or infinite.

    The host synchronises with the device once.

    Parameters
    ----------
    layer : int
        Index of the layer.
    scores : mapping of str to torch.Tensor
        Scores by the name of their expert; infinite ones are allowed.
    tensors : mapping of str to torch.Tensor
        Hidden states, keys and values, by their names in messages. Hidden states are checked only if scores are NaN.
    """
    are_nan = torch.stack([score.isnan().any() for score in scores.values()])
    is_broken = ~total(tensors["keys"], tensors["values"]).isfinite()
    if not torch.cat([are_nan, is_broken[None]]).any():
        return
    refuse_not_finite(layer, tensors)
    culprits = ", ".join(name for name, wrong in zip(scores, are_nan.tolist(), strict=True) if wrong)
    raise ValueError(
        f"the scores of {culprits} in layer {layer} are NaN, though its hidden states, keys and values are finite: "
        "check the weights of its query projection, load the model in bfloat16 or float32, or omit the expert"
    )
