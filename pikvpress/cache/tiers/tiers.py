"""The user's choice of tiers, and which layer lies on which of them."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

TIERS = ("device", "host", "file")  # the fastest first


@dataclass(frozen=True)
class Tiers:
    """How much of a cache lies on which tier, after FlexGen (https://arxiv.org/abs/2303.06865).

    FlexGen gives shares c_g, c_c and c_d of the cache to GPU, CPU and disk, whose sum is 1. It chooses them by a linear
    program: minimise the time of a layer for one token, max(ctog, gtoc, dtoc, ctod, compute), so that each tier's peak
    memory stays within its capacity. Here weights and activations have their place. For a cache of S bytes, the terms
    that are left are dtoc = c_d · S / bandwidth_disk and ctog = (c_c + c_d) · S / bandwidth_host. Both fall as more
    lies on a faster tier. For capacities C, the optimum thus fills the fastest tier first: c_g = min(1, C_g / S),
    c_c = min(1 - c_g, C_c / S), c_d = 1 - c_g - c_c. These are the shares for `max_bytes`.

    Whole layers lie on a tier. Going through the layers in order, each lies on the fastest tier on which no more than
    its share of the bytes so far lies then, together with faster tiers. This spreads the layers of a tier evenly, so
    that one layer's bytes can be fetched while others compute. An equal reading of all layers for every token leaves
    nothing to gain from recency: least recently used would fetch every layer again.

    Parameters
    ----------
    shares : mapping of str to float, optional
        Share of the cache's bytes on "device", "host" (page-locked memory beside a GPU; on a CPU it is the same memory
        as the device) and "file", with the sum 1. Tiers that are left out get nothing.
    max_bytes : mapping of str to int, optional
        Instead of shares: bytes on "device" and "host" at most. Files take the rest.
    folder : str or Path, optional
        Folder for files, which may be on an NVMe drive or on CXL memory that appears as a path. By default the system's
        folder for temporary files.
    prefetch : bool, default=True
        Whether the next layer's bytes are fetched while a layer computes.

    Raises
    ------
    ValueError
        For an unknown tier, a negative number, shares whose sum is not 1, both shares and bytes or neither, or a folder
        that does not exist or is not writable.
    TypeError
        If a share or a number of bytes is not a number.

    Examples
    --------
    >>> PiKVCache(tiers={"device": 0.25, "file": 0.75})
    >>> PiKVCache(tiers=Tiers(max_bytes={"device": 10**9, "host": 8 * 10**9}, folder="/mnt/nvme"))
    """

    shares: Mapping[str, float] | None = None
    max_bytes: Mapping[str, int] | None = None
    folder: str | Path | None = None
    prefetch: bool = True

    def __post_init__(self) -> None:
        if (self.shares is None) == (self.max_bytes is None):
            raise ValueError("tiers need either shares or max_bytes, such as Tiers({'device': 0.25, 'file': 0.75})")
        if self.shares is not None:
            _check(self.shares, "shares", TIERS, Real)
            total = math.fsum(self.shares.values())
            if abs(total - 1) > 1e-6:
                raise ValueError(f"shares of tiers must have the sum 1, got {total:g} from {dict(self.shares)}")
        else:
            assert self.max_bytes is not None
            _check(self.max_bytes, "max_bytes", TIERS[:-1], Integral)
        if self.files:
            _check_folder(self.parent)

    @staticmethod
    def of(choice: Tiers | Mapping[str, float]) -> Tiers:
        """Return the tiers with these shares; tiers are returned unchanged.

        Raises
        ------
        ValueError, TypeError
            For shares that are wrong, or anything else than tiers or a mapping.
        """
        if isinstance(choice, Tiers):
            return choice
        if not isinstance(choice, Mapping):
            raise TypeError(f"tiers must be Tiers or a mapping of tiers to shares, got {type(choice).__name__}")
        return Tiers(choice)

    @property
    def files(self) -> bool:
        """Whether anything may lie in files."""
        return self.shares is None or self.shares.get("file", 0) > 0

    @property
    def parent(self) -> Path:
        """The folder for files."""
        return Path(tempfile.gettempdir() if self.folder is None else self.folder)

    def shares_of(self, nbytes: float) -> dict[str, float]:
        """Return the share of each tier for a cache of so many bytes."""
        if self.shares is not None:
            return {tier: float(self.shares.get(tier, 0)) for tier in TIERS}
        assert self.max_bytes is not None
        found, left = {}, 1.0
        for tier in TIERS[:-1]:
            found[tier] = min(left, self.max_bytes.get(tier, 0) / max(1, nbytes))
            left -= found[tier]
        return found | {TIERS[-1]: left}

    def home(self, sizes: Sequence[int], homes: Sequence[str], layers: int) -> str:
        """Return the tier of a layer.

        Parameters
        ----------
        sizes : sequence of int
            Bytes of the layers up to this one.
        homes : sequence of str
            Tiers of the layers before it.
        layers : int
            Number of layers of the model; later ones are expected to be as large as these are on average.
        """
        so_far = sum(sizes)
        shares = self.shares_of(so_far * max(layers, len(sizes)) / len(sizes))
        limit, slowest = 0.0, TIERS[0]
        for rank, tier in enumerate(TIERS):
            limit += shares[tier] * so_far
            faster = sum(size for size, home in zip(sizes, homes, strict=False) if TIERS.index(home) <= rank)
            if shares[tier] > 0:
                slowest = tier
                if faster + sizes[-1] <= limit * (1 + 1e-9):
                    return tier
        return slowest

    def __str__(self) -> str:
        """Return the shares or the most bytes in words."""
        if self.shares is not None:
            return ", ".join(f"{share:.0%} {tier}" for tier, share in self.shares.items())
        assert self.max_bytes is not None
        return ", ".join([*(f"{size:,} bytes {tier}" for tier, size in self.max_bytes.items()), "the rest file"])


def _check(numbers: Any, name: str, allowed: Sequence[str], kind: Any) -> None:
    if not isinstance(numbers, Mapping):
        raise TypeError(f"{name} must map tiers to numbers, got {type(numbers).__name__}")
    for tier, number in numbers.items():
        if tier not in allowed:
            raise ValueError(f"{name} are of {', '.join(allowed)}, got {tier!r}")
        if isinstance(number, bool) or not isinstance(number, kind):
            what = "a whole number" if kind is Integral else "a number"
            raise TypeError(f"{name} of {tier!r} must be {what}, got {number!r}")
        if not number >= 0:  # NaN neither
            raise ValueError(f"{name} of {tier!r} must be at least 0, got {number}")


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder} for a file tier: create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"the folder {folder} for a file tier is not writable: choose another one")
