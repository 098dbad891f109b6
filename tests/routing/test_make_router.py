"""Creating routers with the dimensions of a model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pikvpress import models
from pikvpress.experts import make_experts
from pikvpress.routers import ROUTERS, RouterSettings
from pikvpress.routing.make_router import make_router

EXPERTS = make_experts(["keydiff", "knorm"], None)


@pytest.mark.parametrize("name", ROUTERS)
def test_a_router_has_a_gate_for_each_head_and_the_experts_priors(name, llama):
    experts = [replace(expert, prior=prior) for expert, prior in zip(EXPERTS, (3.0, 1.0), strict=True)]
    router = make_router(name, experts, models.attention_layers(llama)[0], RouterSettings(top_k=2))
    assert type(router) is ROUTERS[name] and router.static.shape == (2, 2, 2)
    assert (router.static[..., 0] - router.static[..., 1]).exp().allclose(router.static.new_tensor(3.0))


def test_other_classes_can_stand_for_the_names(llama):
    class Mine(ROUTERS["base"]):
        pass

    arguments = EXPERTS, models.attention_layers(llama)[0], RouterSettings(top_k=2)
    assert type(make_router("mine", *arguments, {"mine": Mine})) is Mine
