"""Packing numbers into a few bits."""

from pikvpress.kernels.packing.reference import (
    check_scales,
    codes_in_whole_bytes,
    dequantise,
    pack_bits,
    quantise,
    unpack_bits,
)

__all__ = ["check_scales", "codes_in_whole_bytes", "dequantise", "pack_bits", "quantise", "unpack_bits"]
