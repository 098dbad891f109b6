"""The router requested by a press, validated before the model is known, and resolved for a model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pikvpress.experts import Expert, equipped, make_experts
from pikvpress.gates import Gates, find_gates, key, load_gates
from pikvpress.routers import ROUTERS, RouterSettings

logger = logging.getLogger(__name__)

AUTO = "auto"


def routed_for(budgets: str) -> str:
    """Return the kind of budgets that the gates were fitted for which a given kind uses."""
    return "fitted" if budgets == "fitted" else "equal"


@dataclass(frozen=True, eq=False)
class RouterSpec:
    """A requested router.

    Parameters
    ----------
    router_type : str
        One of `pikvpress.routers.ROUTERS`.
    experts : tuple of Expert
        The requested experts, or the default ones.
    num_experts : int or None
        The requested number of experts if none were named; None to accept the experts of any gates.
    named : bool
        Whether experts were named; gates then do not replace them.
    top_k : int or None
        Maximum number of experts per head; None for the default, or fewer if there are fewer experts.
    settings : mapping of str to object
        The other `RouterSettings`.
    gates : Gates, "auto" or None
        Given gates; "auto" to find the gates of the model; or None to use the prior.
    """

    router_type: str
    experts: tuple[Expert, ...]
    num_experts: int | None
    named: bool
    top_k: int | None
    settings: Mapping[str, Any]
    gates: Gates | str | None

    @classmethod
    def of(cls, press: Any) -> RouterSpec:
        """Return the router requested by the fields of a press.

        Raises
        ------
        ValueError, TypeError
            For settings out of range, unknown names, or gates fitted for another router, other experts or other
            budgets.
        """
        gates = press.gates if press.gates in (None, AUTO) else load_gates(Path(press.gates))
        names = [name for name in RouterSettings.__dataclass_fields__ if name != "top_k"]
        spec = cls(
            router_type=press.router_type,
            experts=make_experts(press.experts, press.num_experts),
            num_experts=press.num_experts,
            named=press.experts is not None,
            top_k=press.top_k,
            settings={name: getattr(press, name) for name in names},
            gates=gates,
        )
        experts = spec.experts
        if isinstance(gates, Gates):
            experts = spec.experts_of(gates)
            gates.parameters(spec.router_type, [expert.name for expert in experts], routed_for(press.budgets))
        spec.settings_for(experts)
        return spec

    def settings_for(self, experts: tuple[Expert, ...]) -> RouterSettings:
        """Return the settings, checked for the number of experts."""
        top_k = min(RouterSettings.top_k, len(experts)) if self.top_k is None else self.top_k
        settings = RouterSettings(top_k=top_k, **self.settings)
        ROUTERS[self.router_type].check(settings, len(experts))
        return settings

    def experts_of(self, gates: Gates) -> tuple[Expert, ...]:
        """Return the experts to use with gates: those of the gates, unless others were requested."""
        taken = not self.named and self.num_experts in (None, len(gates.experts))
        if not taken or [expert.name for expert in self.experts] == list(gates.experts):
            return self.experts
        return make_experts(gates.experts, None)

    def equipped_for(self, gates: Gates | None) -> tuple[Expert, ...]:
        """Return the experts to use in a model with these gates or without, with the weights that the gates contain."""
        if gates is None:
            return equipped(self.experts, None)
        return equipped(self.experts_of(gates), gates.saliency, gates.saliency_hidden)

    def gates_of(self, fingerprint: Mapping[str, str]) -> Gates | None:
        """Return the gates of a model, given or found, or None if there are none or they are turned off.

        Raises
        ------
        ValueError
            If the given gates belong to another model, or the file that is found cannot be used.
        """
        if isinstance(self.gates, Gates):
            self.gates.check_model(fingerprint)
            return self.gates
        return find_gates(fingerprint) if self.gates == AUTO else None

    def gates_for(self, found: Gates | None, budgets: str) -> Gates | None:
        """Return those of a model if they know the router and the experts for a kind of budgets, else None."""
        if self.gates != AUTO:  # given gates were checked when the press was made
            return found
        if found is None:
            logger.warning_once(  # type: ignore[attr-defined]
                "MoERouterPress routes by its prior: no gates are fitted for this model; run `pikvpress calibrate`"
            )
            return None
        experts = [expert.name for expert in self.experts_of(found)]
        if key(self.router_type, routed_for(budgets)) not in found.routers or experts != list(found.experts):
            logger.warning_once(  # type: ignore[attr-defined]
                f"MoERouterPress routes by its prior: the gates found for this model are for the experts "
                f"{', '.join(found.experts)} and the routers {', '.join(found.router_types)}, but others were requested"
            )
            return None
        return found
