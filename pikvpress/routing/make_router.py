"""Creation of a router with the right sizes for a model and its experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pikvpress import models
from pikvpress.experts import Expert
from pikvpress.routers import ROUTERS, Router, RouterSettings
from pikvpress.routers.feature_names import feature_names


def make_router(
    router_type: str,
    experts: Sequence[Expert],
    attention: models.Attention,
    settings: RouterSettings,
    classes: Mapping[str, type[Router]] = ROUTERS,
) -> Router:
    """Return an unfitted router, which uses the experts' prior.

    Parameters
    ----------
    router_type : str
        One of `classes`.
    experts : sequence of Expert
        The experts that it routes to.
    attention : Attention
        Any attention layer of the model.
    settings : RouterSettings
        Checked settings.
    classes : mapping of str to type of Router, optional
        Router classes by name. By default `pikvpress.routers.ROUTERS`.
    """
    return classes[router_type](
        [expert.prior for expert in experts],
        feature_names([expert.name for expert in experts]),
        attention.config.num_hidden_layers,
        models.num_key_value_heads(attention),
        settings,
    )
