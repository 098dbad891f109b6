"""From one layer's input to what the layer keeps: examination, routing, decision."""

from pikvpress import needs_kvpress  # noqa: F401  # first: it says what is missing
from pikvpress.routing.bound_router import BoundRouter, Examiner, bind, knows_router
from pikvpress.routing.examination import Examination, examine
from pikvpress.routing.make_router import make_router
from pikvpress.routing.padded import joined_decision
from pikvpress.routing.recorder import Recorder
from pikvpress.routing.router_spec import AUTO, RouterSpec

__all__ = [
    "AUTO",
    "BoundRouter",
    "Examination",
    "Examiner",
    "Recorder",
    "RouterSpec",
    "bind",
    "examine",
    "joined_decision",
    "knows_router",
    "make_router",
]
