"""Packing numbers into a few bits."""

from pikvpress.kernels.packing.reference import (
    codes_in_whole_bytes,
    dequantise,
    pack_bits,
    quantise,
    unpack_bits,
)

__all__ = ["codes_in_whole_bytes", "dequantise", "pack_bits", "quantise", "unpack_bits"]
