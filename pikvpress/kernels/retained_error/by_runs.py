"""The retained error of many selections on a CPU: each key is read once, not once per selection."""

from __future__ import annotations

import torch

from pikvpress.kernels.attend import attend
from pikvpress.kernels.retained_error.reference import Measurement

FEWEST_KEYS = 16  # per run, on average


def worthwhile(keys: torch.Tensor, kept: torch.Tensor) -> bool:
    """Return whether runs of keys are long enough, and the device is one on which a product for each run is cheap."""
    return keys.device.type == "cpu" and 2 ** kept.shape[2] * FEWEST_KEYS <= keys.shape[2]


def measure(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, kept: torch.Tensor, scaling: float
) -> Measurement:
    """Measure the retained error of several selections of keys; see the reference.

    Keys are reordered so that those kept by the same selections are adjacent. The output of each such run is computed
    once and added to every selection that keeps it.
    """
    batch, heads, num_keys, _ = keys.shape
    rows = queries.unflatten(1, (heads, -1)).flatten(2, 3)  # (B, H, G * Q, D)
    bits = torch.arange(kept.shape[2], device=keys.device)
    codes, order = (kept.long() << bits.unsqueeze(-1)).sum(dim=2).sort(dim=-1)
    attention = torch.empty(rows.shape[2], num_keys, dtype=torch.float32, device=keys.device)
    error = torch.empty(kept.shape[:3], dtype=torch.float32, device=keys.device)
    missed = torch.empty_like(error)
    mass = torch.empty(keys.shape[:3], dtype=torch.float32, device=keys.device)
    for head in [(b, h) for b in range(batch) for h in range(heads)]:
        attend(rows[head], keys[head][order[head]], scaling, attention)
        mass[head][order[head]] = attention.mean(dim=0)
        code, lengths = codes[head].unique_consecutive(return_counts=True)
        outputs = _outputs_of_runs(attention, values[head][order[head]].float(), lengths.tolist())
        keeps = (code >> bits.unsqueeze(-1) & 1).float()  # (selections, runs)
        partial = torch.mm(keeps, outputs.flatten(1)).unflatten(1, outputs.shape[1:])
        full, held = outputs[..., :-1].sum(dim=0), partial[..., -1]
        lost = partial[..., :-1] / held.clamp_min(1e-12).unsqueeze(-1) - full
        error[head] = (lost.norm(dim=-1) / full.norm(dim=-1).clamp_min(1e-12)).mean(dim=-1)
        missed[head] = 1 - held.mean(dim=-1)
    return Measurement(error, missed, mass)


def _outputs_of_runs(attention: torch.Tensor, values: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Return the output of each run of keys, with its attention in the last column, shape (runs, G * Q, D + 1)."""
    values = torch.nn.functional.pad(values, (0, 1), value=1.0)
    outputs = attention.new_empty(len(lengths), attention.shape[0], values.shape[1])
    start = 0
    for number, length in enumerate(lengths):
        torch.mm(attention[:, start : start + length], values[start : start + length], out=outputs[number])
        start += length
    return outputs
