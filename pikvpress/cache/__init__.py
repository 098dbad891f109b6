"""A cache that holds only the entries that presses keep."""

from pikvpress.cache.calibrated import Bases, CalibratedCodec, load_bases, save_bases
from pikvpress.cache.codec import Codec
from pikvpress.cache.codecs import CODECS
from pikvpress.cache.held import Held
from pikvpress.cache.joining import joined_ids
from pikvpress.cache.layer import PiKVLayer
from pikvpress.cache.low_rank import LowRankCodec
from pikvpress.cache.names import codec
from pikvpress.cache.pikv_cache import PiKVCache
from pikvpress.cache.rotated import RotatedCodec
from pikvpress.cache.saving import SavedCache, saved_cache
from pikvpress.cache.sharded_cache import ShardedPiKVCache
from pikvpress.cache.tiers import TIERS, Tiers

__all__ = [
    "CODECS",
    "TIERS",
    "Bases",
    "CalibratedCodec",
    "Codec",
    "Held",
    "LowRankCodec",
    "PiKVCache",
    "PiKVLayer",
    "RotatedCodec",
    "SavedCache",
    "ShardedPiKVCache",
    "Tiers",
    "codec",
    "joined_ids",
    "load_bases",
    "save_bases",
    "saved_cache",
]
