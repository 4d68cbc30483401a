"""The served models: which one a request names, and what clients and the page are told of each."""

import time
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from .. import demo
from ..study.formula import target_formula
from .decoding import Decoder
from .errors import ApiError

NUM_EXAMPLE_PROMPTS = 8


class ServedModels:
    """The decoder of each model, by its name. default: the model of requests that name none."""

    def __init__(self, decoders: Mapping[str, Decoder], default: str) -> None:
        self.decoders = decoders
        self._default = default

    def of(self, name: str | None) -> Decoder:
        """The decoder of the model that a request names. Raises ApiError for one that is not served."""
        decoder = self.decoders.get(self._default if name is None else name)
        if decoder is None:
            known = ", ".join(map(repr, self.decoders))
            raise ApiError(404, f"the model {name!r} is not served, only {known}", param="model")
        return decoder

    def close(self) -> None:
        for decoder in self.decoders.values():
            decoder.close()


def model_routes(models: ServedModels) -> APIRouter:
    """`/v1/models`."""
    routes = APIRouter(tags=["server"])
    created = int(time.time())

    def described(name: str) -> dict[str, Any]:
        decoder = models.of(name)
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "cospec",
            "root": name,
            "parent": None,
            "max_model_len": decoder.codec.context,
            "cospec": _described(decoder),
        }

    @routes.get("/v1/models")
    async def listed() -> dict[str, Any]:
        return {"object": "list", "data": [described(name) for name in models.decoders]}

    @routes.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        return described(name)

    return routes


def _described(decoder: Decoder) -> dict[str, Any]:
    """What the page shows of an ensemble, and what a request may name.

    schedules: those that may be named alone; verifications: the same. plans: each schedule with the verifications that
    may be named beside it. chat_templates: the members that have one; the others are given chats in the plain form.
    own_systems: the members with a system message of their own, in the place of a chat's. It is not told.
    """
    ensemble, offered = decoder.ensemble, decoder.offered
    combination: dict[str, Any] = {"type": ensemble.combination.name}
    weights = getattr(ensemble.combination, "weights", None)
    if weights is not None:
        combination["weights"] = list(weights)
    members = dict(zip(ensemble.member_names, ensemble.sources, strict=False))  # drafters come behind
    own, verification = ensemble.plan.name, ensemble.plan.verification
    return {
        "members": list(ensemble.member_names),
        "drafters": list(ensemble.drafter_names),
        "combination": combination,
        "chat_templates": list(ensemble.templated),
        "own_systems": [name for name, member in members.items() if member.system is not None],
        "target": target_formula(ensemble.combination, ensemble.member_names),
        "schedules": [name for name, others in offered.items() if verification in others],
        "verifications": offered.get(own, []),
        "plans": offered,
        "schedule": own,
        "verification": verification,
        "prompts": demo.prompts()[:NUM_EXAMPLE_PROMPTS],
    }
