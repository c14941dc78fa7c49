"""Suites: lists of the methods that one command compares.

To add a suite, write a function that returns methods, and add it to `SUITES`.
"""

import dataclasses
from collections.abc import Callable

from mixer_jax.experiments.objectives import OBJECTIVES

# Kinds of methods: trained towers; towers trained with one of the project's
# heads; a trained linear map of the frozen features; the features themselves;
# their whitening; the encoder's last layer.
TOWERS, HEAD, LINEAR = "towers", "head", "linear"
FROZEN, WHITENED, ZERO_SHOT = "frozen", "whitened", "zero-shot"
CLOSED = (FROZEN, WHITENED, ZERO_SHOT)  # without trials and seeds
OURS = "CosFace proxies, concept attention"
EXACT = "exact head"
# A section is compared with the first of these that it contains, or else with
# the last one.
REFERENCES = (EXACT, OURS)


@dataclasses.dataclass(frozen=True)
class Method:
    """A method to measure.

    Attributes:
      name: its name, unique within a suite.
      section: the heading under which the page shows it.
      kind: one of the kinds above.
      loss: a key of `OBJECTIVES`, for towers.
      fusion: a key of `models.fusion.FUSIONS`, for towers and heads.
      head: settings of the config's section `head`, for heads.
      without: the part of `train` that is left out, as in `train/mosaic`.
    """

    name: str
    section: str
    kind: str = TOWERS
    loss: str = "cosface"
    fusion: str = "concept_attention"
    head: tuple[tuple[str, str | int | float], ...] = ()
    without: str = ""

    def identity(self) -> dict[str, object]:
        """Returns what the results depend on: all but name and section."""
        if self.kind in (*CLOSED, LINEAR):
            return {"kind": self.kind, "without": self.without}
        values = dataclasses.asdict(self)
        return {k: v for k, v in values.items() if k not in ("name", "section")}


_SHORT = {
    "cosface": "CosFace proxies",
    "triplet": "triplets",
    "infonce": "InfoNCE",
    "siglip": "SigLIP",
    "proxy_anchor": "Proxy-Anchor",
    "proxy_nca": "Proxy-NCA",
    "softmax": "softmax",
}
_FUSIONS = {
    "image_only": "image only",
    "text_only": "text only",
    "average": "average",
    "concat": "concatenation",
    "gated": "gated",
    "merge": "merged attention",
    "concept_attention": "concept attention",
}


def _towers(loss: str, fusion: str, section: str) -> Method:
    name = f"{_SHORT[loss]}, {_FUSIONS[fusion]}"
    return Method(name, section, loss=loss, fusion=fusion)


def main() -> list[Method]:
    """Losses with two fusions, fusions with our loss, and floors."""
    found = _floors("Floors")
    found.append(Method("linear map", "Floors", LINEAR))
    for fusion in ("concept_attention", "image_only"):
        section = f"Losses, {_FUSIONS[fusion]}"
        found += [_towers(loss, fusion, section) for loss in OBJECTIVES]
    others = [
        f for f in _FUSIONS if f not in ("concept_attention", "image_only")
    ]
    return found + [_towers("cosface", f, "Fusions") for f in others]


def _floors(section: str) -> list[Method]:
    """Returns the methods without training."""
    return [
        Method("last layer", section, ZERO_SHOT),
        Method("hypercolumns", section, FROZEN),
        Method("learned whitening", section, WHITENED),
    ]


def parts() -> list[Method]:
    """The parts of the method: proxies, concepts and fusion, active sets."""
    found = _floors("Parts")
    for fusion in ("image_only", "average", "concept_attention"):
        found.append(_towers("cosface", fusion, "Parts"))
    found.append(_head(EXACT, "exact"))
    for share in (0.1, 0.3):
        found.append(_head(f"sampled head, M = {share:.0%}", "sampled", share))
        for near in (8, 32, 128):
            name = f"knn head, K = {near}, M = {share:.0%}"
            found.append(_head(name, "knn", share, near))
    return found


def _head(name: str, head: str, share: float = 1.0, near: int = 1) -> Method:
    settings = (("name", head), ("active", share), ("neighbors", near))
    return Method(name, "Active sets", HEAD, head=settings)


def mosaics() -> list[Method]:
    """Training with and without queries that show a second product."""
    found = _floors("Mosaics")
    for fusion in ("image_only", "concept_attention"):
        method = _towers("cosface", fusion, "Mosaics")
        name = f"{method.name}, without mosaics"
        found.append(dataclasses.replace(method, name=name, without="mosaic"))
        found.append(method)
    return found


SUITES: dict[str, Callable[[], list[Method]]] = {
    "main": main,
    "parts": parts,
    "mosaics": mosaics,
}
