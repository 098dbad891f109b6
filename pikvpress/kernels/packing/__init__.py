"""Packing numbers into a few bits."""

from pikvpress.kernels.by_device import by_device
from pikvpress.kernels.packing import reference
from pikvpress.kernels.packing.reference import (
    check_scales,
    codes_in_whole_bytes,
    dequantise,
    pack_bits,
    quantise,
    unpack_bits,
)

quantise_and_pack = by_device(reference.quantise_and_pack, is_compiled=True, has_kernel=False)

__all__ = [
    "check_scales",
    "codes_in_whole_bytes",
    "dequantise",
    "pack_bits",
    "quantise",
    "quantise_and_pack",
    "unpack_bits",
]
