"""Measurements on disk: files with what fitting needs of every layer.

A file holds one context, and fitting reads one layer of it at a time. Memory is limited to one context, and an
interrupted calibration continues with the next file. The experts' view of the context is in a second file, because one
of the experts is fitted on the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import DynamicCache

from pikvpress.calibration.measure.reading import FutureReading, read
from pikvpress.support.whole_file import whole_file


def save(path: Path, tensors: dict[str, torch.Tensor], **about: str) -> None:
    """Write measurements atomically."""
    with whole_file(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata=about)


def described(kind: str, scaling: Sequence[float], seconds: float) -> dict[str, str]:
    """Return the metadata for the tensors of `collect`: kind, logit scaling of each layer, duration."""
    return {"kind": kind, "seconds": repr(seconds), "scaling": ",".join(repr(float(factor)) for factor in scaling)}


class Seen(NamedTuple):
    """What a router sees of one layer of a context; empty before experts have examined it.

    Attributes
    ----------
    ranks : torch.Tensor
        Ranks of every expert's scores, from 0 to 1, float32, shape (ratios, kv_heads, experts, keys).
    features : torch.Tensor
        Head features, shape (ratios, kv_heads, features).
    """

    ranks: torch.Tensor
    features: torch.Tensor


@dataclass(frozen=True)
class LayerRecord:
    """One layer of a measured situation.

    Parameters
    ----------
    keys : torch.Tensor
        Rotated keys of the context, shape (kv_heads, keys, head_dim).
    reading : FutureReading
        How the futures read the context.
    seen : Seen
        What a router sees of it.
    """

    keys: torch.Tensor
    reading: FutureReading
    seen: Seen

    @property
    def num_keys(self) -> int:
        """Number of tokens of the context."""
        return self.keys.shape[1]


@dataclass(frozen=True)
class MeasuredContext:
    """A prefilled context and what the router sees of it.

    Parameters
    ----------
    cache : DynamicCache
        The full cache.
    layers : dict of int to Seen
        The router's view of each layer.
    num_keys : int
        Number of tokens of the context.
    """

    cache: DynamicCache
    layers: dict[int, Seen]
    num_keys: int


def of_experts(features: torch.Tensor, experts: Sequence[int], num_experts: int) -> torch.Tensor:
    """Return head features as with only some experts, since those of an expert are relative to the mean."""
    columns = torch.tensor(list(experts), device=features.device)
    error, missed = features[..., columns], features[..., num_experts + columns]
    statistics = features[..., 2 * num_experts :]
    relative = [part - part.mean(dim=-1, keepdim=True) for part in (error, missed)]
    return torch.cat([*relative, statistics], dim=-1)


class Record:
    """A measured situation on disk.

    Parameters
    ----------
    path : Path
        A file written by `save` with the result of `collect`.
    seen : Path, optional
        A file with the result of `look`.
    experts : sequence of int, optional
        Restrict the measured experts to these.

    Raises
    ------
    ValueError
        If a file is not complete.
    """

    def __init__(self, path: Path, seen: Path | None = None, experts: Sequence[int] | None = None):
        self._experts = list(experts) if experts is not None else None
        self._path, self._seen_path = path, seen
        self._names, metadata = _contents(path)
        if seen is not None:
            _contents(seen)
        self.kind, self.seconds = metadata["kind"], float(metadata["seconds"])
        self._scaling = [float(factor) for factor in metadata["scaling"].split(",")]
        self.layers = sorted(int(name.split("/")[0]) for name in self._names if name.endswith("/0/queries"))

    def of(self, experts: Sequence[int]) -> Record:
        """Return the record as it would be with only some of the experts."""
        return Record(self._path, self._seen_path, experts)

    def layer(
        self,
        index: int,
        most_rows: int | None = None,
        stored: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> LayerRecord:
        """Read one layer, optionally with a limited number of queries per head (see `measure.read`) or changed keys."""
        with safe_open(self._path, framework="pt") as file:

            def tensor(name: str) -> torch.Tensor:
                return file.get_tensor(f"{index}/{name}")

            futures = len({name for name in self._names if name.startswith(f"{index}/") and "/queries" in name})
            keys, values = tensor("keys").float(), tensor("values").float()
            keys = keys if stored is None else stored(keys)
            parts = ("queries", "keys", "values", "gradients")
            read_by = [tuple(tensor(f"{number}/{part}").float() for part in parts) for number in range(futures)]
        reading = read(keys, values, read_by, self._scaling[index], most_rows)  # type: ignore[arg-type]
        return LayerRecord(keys, reading, self._seen([index], keys.shape[1], torch.device("cpu"))[index])

    def queries(self, index: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Read one layer's rotated queries (heads, tokens, head_dim) and gradients of each future, see `collect`."""
        with safe_open(self._path, framework="pt") as file:
            return [
                (file.get_tensor(name).float(), file.get_tensor(name.replace("queries", "gradients")).float())
                for name in sorted(self._names)
                if name.startswith(f"{index}/") and name.endswith("/queries")
            ]

    def probes(self, index: int) -> torch.Tensor:
        """Read one layer's queries of the context at positions after it (heads, n, head_dim), see `look`."""
        assert self._seen_path is not None
        with safe_open(self._seen_path, framework="pt") as file:
            return file.get_tensor(f"{index}/probes").float()

    def hidden(self, index: int) -> torch.Tensor:
        """Read one layer's hidden states (keys, hidden)."""
        with safe_open(self._path, framework="pt") as file:
            return file.get_tensor(f"{index}/hidden").float()

    def scaling(self, index: int) -> float:
        """Return the factor on one layer's logits."""
        return self._scaling[index]

    def num_keys(self, index: int) -> int:
        """Return the number of keys of the context in one layer."""
        with safe_open(self._path, framework="pt") as file:
            return int(file.get_slice(f"{index}/keys").get_shape()[1])

    def context(self, device: torch.device, dtype: torch.dtype) -> MeasuredContext:
        """Read the full cache, and the router's view of all layers."""
        cache, num_keys = DynamicCache(), 0
        with safe_open(self._path, framework="pt", device=str(device)) as file:
            for index in range(len(self._scaling)):
                states = [file.get_tensor(f"{index}/{name}").to(dtype).unsqueeze(0) for name in ("keys", "values")]
                cache.update(states[0], states[1], index)
                num_keys = states[0].shape[2] if index in self.layers else num_keys
        return MeasuredContext(cache, self._seen(self.layers, num_keys, device), num_keys)

    def _seen(self, layers: Sequence[int], num_keys: int, device: torch.device) -> dict[int, Seen]:
        if self._seen_path is None:
            none = Seen(torch.zeros(0, 0, 0, num_keys), torch.zeros(0, 0, 0))
            return dict.fromkeys(layers, none)
        found = {}
        with safe_open(self._seen_path, framework="pt", device=str(device)) as file:
            for index in layers:
                ranks = file.get_tensor(f"{index}/ranks").float() / (2 * (num_keys - 1))
                features = file.get_tensor(f"{index}/features")
                if self._experts is not None:
                    features = of_experts(features, self._experts, ranks.shape[2])
                    ranks = ranks[:, :, self._experts]
                found[index] = Seen(ranks, features)
        return found


def _contents(path: Path) -> tuple[set[str], dict[str, str]]:
    """Return the names of a file's tensors, and its metadata."""
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys()), dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a complete measurement ({error}): delete it to repeat the measurement"
        ) from error
