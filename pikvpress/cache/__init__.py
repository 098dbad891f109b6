"""A cache that holds what presses leave, and nothing else."""

from pikvpress.cache.calibrated import Bases, CalibratedCodec, load_bases, save_bases
from pikvpress.cache.codecs import CODECS, Codec
from pikvpress.cache.held import Held
from pikvpress.cache.layer import PiKVLayer
from pikvpress.cache.low_rank import LowRankCodec
from pikvpress.cache.names import codec
from pikvpress.cache.pikv_cache import PiKVCache

__all__ = [
    "CODECS",
    "Bases",
    "CalibratedCodec",
    "Codec",
    "Held",
    "LowRankCodec",
    "PiKVCache",
    "PiKVLayer",
    "codec",
    "load_bases",
    "save_bases",
]
