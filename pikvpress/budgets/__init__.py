"""How a budget is divided over layers and heads."""

from pikvpress.budgets.budget import Budget, ModelShape
from pikvpress.budgets.by_bytes import FittedBytes, UniformBytes
from pikvpress.budgets.curves import counts_by_curves, worth_by_curves
from pikvpress.budgets.decision import Decision, ScoredLayer
from pikvpress.budgets.equal import EqualBudget
from pikvpress.budgets.fitted import FittedBudget
from pikvpress.budgets.fitted_counts import fitted_counts
from pikvpress.budgets.marginal import marginal_errors
from pikvpress.budgets.pooled import pooled
from pikvpress.budgets.pools import LayerPoolBudget, ModelPoolBudget
from pikvpress.budgets.pyramid import PyramidBudget
from pikvpress.budgets.pyramid_counts import pyramid_counts
from pikvpress.budgets.spend_bytes import spend_bytes
from pikvpress.support.registry import Registry

# Token budgets are for `MoERouterPress`, byte budgets for `PiKVPress`.
TOKEN_BUDGETS: Registry[type[Budget]] = Registry(
    "budgets",
    {
        "equal": EqualBudget,
        "fitted": FittedBudget,
        "pyramid": PyramidBudget,
        "adakv": LayerPoolBudget,
        "global": ModelPoolBudget,
    },
)
BYTE_BUDGETS: Registry[type[Budget]] = Registry("budgets", {"equal": UniformBytes, "fitted": FittedBytes})

__all__ = [
    "BYTE_BUDGETS",
    "TOKEN_BUDGETS",
    "Budget",
    "Decision",
    "EqualBudget",
    "FittedBudget",
    "FittedBytes",
    "LayerPoolBudget",
    "ModelPoolBudget",
    "ModelShape",
    "PyramidBudget",
    "ScoredLayer",
    "UniformBytes",
    "counts_by_curves",
    "fitted_counts",
    "marginal_errors",
    "pooled",
    "pyramid_counts",
    "spend_bytes",
    "worth_by_curves",
]
