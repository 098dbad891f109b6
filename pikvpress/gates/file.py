"""The result of calibrating one model, and its file format."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pikvpress import saliency_features
from pikvpress.cache.codecs import CODECS
from pikvpress.routers import feature_names
from pikvpress.tensor_file import read_tensors, write_tensors

FORMAT = "pikvpress-gates-3"
CURVES = ("curves", "codec_curves")
HIDDEN = "saliency_hidden"
SALIENCY = ("saliency", HIDDEN)
QUERIES, QUERY_CODEC = "queries", CODECS["rot4"]


@dataclass(frozen=True)
class Gates:
    """Fitted gates of one model.

    Parameters
    ----------
    model : mapping of str to str
        `models.fingerprint` of layer 0 of the model that they were fitted for.
    experts : sequence of str
        The experts, in the order of the routers' weights.
    routers : mapping of str to mapping of str to torch.Tensor
        Parameters of each fitted router, by `key`; they differ between kinds of budgets.
    curves : torch.Tensor, optional
        Error curves for head budgets, shape (len(`ratios`), layers, kv_heads, len(`keep_shares`)), float32; NaN for
        layers that are not compressed.
    keep_shares : tuple of float
        The shares of the keys kept at which the curves were measured, descending.
    ratios : tuple of float
        The compression ratios of the experts in these measurements, ascending.
    codec_curves : torch.Tensor, optional
        Error curves of entries stored by each of `codecs`, shape (len(`ratios`), layers, kv_heads, len(`codecs`),
        len(`keep_shares`)), float32; NaN for layers that are not compressed.
    codecs : tuple of (str, str)
        Codecs of keys and values.
    saliency : torch.Tensor, optional
        Weights of the "saliency" expert, if it is one of the experts: shape (layers, kv_heads, features), float32; 0
        for layers that are not compressed.
    saliency_hidden : torch.Tensor, optional
        Weights of the same expert where hidden states are known: shape (layers, kv_heads, features + hidden size).
        Files hold them in 16 bits.
    queries : torch.Tensor, optional
        Queries of futures before rotation, to refit values (`pikvpress.refit`): shape (layers, heads, n, head_dim),
        float16; 0 for layers that are not compressed. Files hold them in 4 bits.
    about : mapping of str to object
        How they were fitted: data, seed, versions, results. Stored as JSON.
    """

    model: Mapping[str, str]
    experts: Sequence[str]
    routers: Mapping[str, Mapping[str, torch.Tensor]]
    curves: torch.Tensor | None = None
    keep_shares: tuple[float, ...] = ()
    ratios: tuple[float, ...] = ()
    codec_curves: torch.Tensor | None = None
    codecs: tuple[tuple[str, str], ...] = ()
    saliency: torch.Tensor | None = None
    saliency_hidden: torch.Tensor | None = None
    queries: torch.Tensor | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def router_types(self) -> list[str]:
        """The fitted routers."""
        return list(dict.fromkeys(name.partition("+")[0] for name in self.routers))

    def parameters(
        self, router_type: str, experts: Sequence[str], budgets: str = "equal"
    ) -> Mapping[str, torch.Tensor]:
        """Return a router's parameters.

        Raises
        ------
        ValueError
            If the gates were fitted for other routers, experts or budgets; the message names both.
        """
        if key(router_type, budgets) not in self.routers:
            raise ValueError(
                f"the gates were fitted for router_type {', '.join(map(repr, self.router_types))}, but the press has "
                f"{router_type!r} with {budgets} budgets: create the press with one of the former, or fit gates for "
                "the latter"
            )
        if list(experts) != list(self.experts):
            raise ValueError(
                f"the gates were fitted for experts {', '.join(self.experts)}, in this order, but the press has "
                f"{', '.join(experts)}: omit experts to use the former, or fit gates for the latter"
            )
        return self.routers[key(router_type, budgets)]

    def digest(self) -> str:
        """Return a digest of the fitted numbers: two gates with the same one decide alike."""
        about = [sorted(self.model.items()), list(self.experts), self.keep_shares, self.ratios, self.codecs]
        found = hashlib.sha256(json.dumps(about).encode())
        parts = [self.curves, self.codec_curves, self.saliency, self.saliency_hidden, self.queries]
        for router in sorted(self.routers):
            parts += [tensor for _, tensor in sorted(self.routers[router].items())]
        for tensor in parts:
            found.update(b"none" if tensor is None else tensor.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    def check_model(self, model: Mapping[str, str]) -> None:
        """Raise a ``ValueError`` that names every difference if they were fitted for another model."""
        differing = [key for key, value in self.model.items() if model.get(key) != value]
        if differing:
            listed = "; ".join(f"{key}: gates {self.model[key]}, model {model.get(key)}" for key in differing)
            raise ValueError(
                f"these gates were fitted for another model ({listed}): omit gates to find those of this "
                "model automatically, or fit gates for this model"
            )


def key(router_type: str, budgets: str) -> str:
    """Return the name under which the parameters of a router for equal or fitted budgets are stored."""
    return router_type if budgets == "equal" else f"{router_type}+{budgets}"


def file_name(model: Mapping[str, str]) -> str:
    """Return the name of a model's gates file: the model type and a digest of its fingerprint."""
    digest = hashlib.sha256(json.dumps(dict(sorted(model.items()))).encode()).hexdigest()[:16]
    return f"{model.get('model_type', 'model')}-{digest}.safetensors"


def save_gates(path: str | Path, gates: Gates) -> None:
    """Write gates; an existing file is replaced atomically."""
    path = Path(path)
    metadata = {
        "format": FORMAT,
        "features": feature_names.VERSION,
        "experts": json.dumps(list(gates.experts)),
        "model": json.dumps(dict(gates.model)),
        "keep_shares": json.dumps(list(gates.keep_shares)),
        "ratios": json.dumps(list(gates.ratios)),
        "codecs": json.dumps(list(gates.codecs)),
        "about": json.dumps(dict(gates.about)),
    }
    tensors = {
        f"{router}/{name}": tensor
        for router, parameters in gates.routers.items()
        for name, tensor in parameters.items()
    }
    for name in CURVES:
        if getattr(gates, name) is not None:
            tensors[name] = getattr(gates, name).float()
    for name in SALIENCY:
        if getattr(gates, name) is not None:
            kind = torch.float16 if name == HIDDEN else torch.float32
            tensors[name], metadata[name] = getattr(gates, name).to(kind), saliency_features.VERSION
    if gates.queries is not None:
        tensors[QUERIES] = QUERY_CODEC.encode(gates.queries.float().flatten(0, 2), False)
        metadata[QUERIES] = json.dumps(list(gates.queries.shape))
    write_tensors(path, tensors, metadata)


def load_gates(path: str | Path) -> Gates:
    """Read a gates file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a gates file, is truncated or altered, or was fitted with another version of the head features.
    """
    path = Path(path)
    tensors, metadata = read_tensors(path, "gates", FORMAT)
    if not all(map(_finite, tensors.items())):
        raise ValueError(f"{path} contains NaN or infinite numbers: restore it or fit new gates")
    known = {"features": ("head features", feature_names.VERSION)}
    known |= dict.fromkeys(SALIENCY, ("saliency features", saliency_features.VERSION))
    for name, (what, version) in known.items():
        if metadata.get(name, version) != version:
            raise ValueError(
                f"the gates in {path} were fitted with {what} of version {metadata[name]}, but this is "
                f"version {version}: fit new gates, or install the version of pikvpress that fitted them"
            )
    routers: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        router, _, parameter = name.partition("/")
        if parameter:
            routers.setdefault(router, {})[parameter] = tensor
    return Gates(
        model=json.loads(metadata["model"]),
        experts=json.loads(metadata["experts"]),
        routers=routers,
        curves=tensors.get("curves"),
        codec_curves=tensors.get("codec_curves"),
        **{name: tensors[name].float() for name in SALIENCY if name in tensors},
        queries=_queries(tensors.get(QUERIES), metadata),
        codecs=tuple((keys, values) for keys, values in json.loads(metadata["codecs"])),
        keep_shares=tuple(json.loads(metadata["keep_shares"])),
        ratios=tuple(json.loads(metadata["ratios"])),
        about=json.loads(metadata["about"]),
    )


def _queries(stored: torch.Tensor | None, metadata: Mapping[str, str]) -> torch.Tensor | None:
    if stored is None:
        return None
    *shape, width = json.loads(metadata[QUERIES])
    return QUERY_CODEC.decode(stored, math.prod(shape), width, torch.float16, False).view(*shape, width)


def _finite(item: tuple[str, torch.Tensor]) -> bool:
    name, tensor = item
    return name in CURVES or bool(tensor.isfinite().all())  # curves are NaN where a layer is not compressed
