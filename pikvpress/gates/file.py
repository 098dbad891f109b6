"""Reading and writing gates files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pikvpress import head_features
from pikvpress.routers import Router

FORMAT = "pikvpress-gates-1"


def save_gates(
    path: str | Path, router: Router, router_type: str, experts: Sequence[str], model: Mapping[str, str]
) -> None:
    """Write a router's parameters and what they belong to; an existing file is replaced whole or not at all.

    Parameters
    ----------
    path : str or Path
        The file to write.
    router : Router
        Whose parameters.
    router_type : str
        Its name among the routers.
    experts : sequence of str
        The experts in the router's order.
    model : mapping of str to str
        `models.fingerprint` of layer 0 of the model that the gates were fitted for.
    """
    path = Path(path)
    metadata = {
        "format": FORMAT,
        "router_type": router_type,
        "experts": ",".join(experts),
        "features": head_features.VERSION,
        **{f"model.{key}": value for key, value in model.items()},
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in router.state_dict().items()}
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".partial")
    os.close(handle)
    try:
        save_file(tensors, partial, metadata=metadata)
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def load_gates(
    path: str | Path, router_type: str, experts: Sequence[str]
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read a gates file fitted for this router and these experts.

    Returns
    -------
    dict of tensors, dict of str
        The router's parameters, and the fingerprint of the model they were fitted for.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no gates file, is cut short, or was fitted for another router, other experts or other features.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no gates file at {path}: give the path of a file, or leave gates out for the prior")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole gates file ({error}): restore it or fit gates anew") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is not a gates file: its format is {metadata.get('format')!r}, expected {FORMAT!r}")
    wanted = {"router_type": router_type, "experts": ",".join(experts), "features": head_features.VERSION}
    for key, value in wanted.items():
        if metadata.get(key) != value:
            raise ValueError(
                f"the gates in {path} were fitted for {key} {metadata.get(key)!r}, but the press has {value!r}: "
                "make the press with the former, or fit gates for the latter"
            )
    model = {key.removeprefix("model."): value for key, value in metadata.items() if key.startswith("model.")}
    return tensors, model


def check_gates(fitted_for: Mapping[str, str], model: Mapping[str, str]) -> None:
    """Raise a ``ValueError`` that names every difference if gates were fitted for another model."""
    differing = [key for key, value in fitted_for.items() if model.get(key) != value]
    if differing:
        listed = "; ".join(f"{key}: gates {fitted_for[key]}, model {model.get(key)}" for key in differing)
        raise ValueError(
            f"these gates were fitted for another model ({listed}): leave gates out to route by the prior, or fit "
            "gates for this model"
        )
