"""Rules by which a `PiKVCache` stays within a ceiling while it reads and generates; by name in `SCHEDULERS`."""

from pikvpress.cache.scheduler import SCHEDULERS, Candidates, Scheduler
from pikvpress.schedulers.adakv import AdaKVScheduler
from pikvpress.schedulers.adaptive import AdaptiveScheduler
from pikvpress.schedulers.duo import DuoScheduler
from pikvpress.schedulers.h2o import H2OScheduler
from pikvpress.schedulers.lru import LRUScheduler
from pikvpress.schedulers.lru_plus import LRUPlusScheduler
from pikvpress.schedulers.quest import QuestScheduler
from pikvpress.schedulers.saliency import SaliencyScheduler
from pikvpress.schedulers.streaming_llm import StreamingLLMScheduler

SCHEDULERS.update(
    (rule.name, rule)
    for rule in (
        SaliencyScheduler,
        H2OScheduler,
        StreamingLLMScheduler,
        QuestScheduler,
        LRUScheduler,
        LRUPlusScheduler,
        AdaKVScheduler,
        DuoScheduler,
        AdaptiveScheduler,
    )
)

__all__ = [
    "SCHEDULERS",
    "AdaKVScheduler",
    "AdaptiveScheduler",
    "Candidates",
    "DuoScheduler",
    "H2OScheduler",
    "LRUPlusScheduler",
    "LRUScheduler",
    "QuestScheduler",
    "SaliencyScheduler",
    "Scheduler",
    "StreamingLLMScheduler",
]
