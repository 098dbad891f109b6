"""Files of tensors with a digest, which are written atomically and verified when read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pikvpress.support.whole_file import whole_file


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file with metadata; an existing file is replaced atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as partial:
        save_file(tensors, partial, metadata={**metadata, "digest": _digest(tensors)})
        partial.chmod(0o644)  # safetensors makes files that only their owner can read


def read_tensors(path: Path, kind: str, form: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read tensors and metadata from a file written by `write_tensors`.

    Parameters
    ----------
    path : Path
        The file.
    kind : str
        Expected content, for messages.
    form : str
        Expected ``format`` in the metadata.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not such a file, or is truncated or altered.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {kind} file at {path}: pass the path of a file, or omit {kind}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a complete {kind} file ({error}): restore it or fit {kind} again") from error
    if metadata.get("format") != form:
        raise ValueError(f"{path} is not a {kind} file: its format is {metadata.get('format')!r}, expected {form!r}")
    if metadata.get("digest") != _digest(tensors):
        raise ValueError(f"{path} has been altered since it was written: restore it or fit {kind} again")
    return tensors, metadata


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
