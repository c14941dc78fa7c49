"""How categories are found, and the flags that say it."""

import argparse
import dataclasses

from mixer_jax.categories.clustering.merging import Merging
from mixer_jax.categories.evidence.affinity import Trust
from mixer_jax.runtime.errors import UserError

METHODS = ("dbscan", "hdbscan", "components", "kmeans")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How categories are found; the defaults suit any log.

    Attributes:
      method: how the first clusters are made, one of `METHODS`.
      neighbours: k, of each sample by content within each role.
      least: affinity from which two samples are neighbours (DBSCAN's eps is 1
        less it). None reads it off the data, see `knee`.
      cohesion: mean affinity from which parts of a cluster stay one.
      min_samples: of DBSCAN and HDBSCAN; 2 lets a category have two samples.
      k: clusters of k-means; 0 is one for each `mean_size` samples.
      mean_size: samples of a cluster of k-means.
      max_size: samples that a category may have; 0 is any number. Copies of
        one content stay together.
      clicks_least: affinity from which two samples are neighbours where clicks
        alone are used.
      content_least: cosine from which two samples of one role are neighbours
        where content alone is used; nearer than most variants of a drawing.
      trust: how clicks and content are weighed.
      merging: when two clusters are one.
    """

    method: str = "dbscan"
    neighbours: int = 10
    least: float | None = None
    cohesion: float = 0.085
    min_samples: int = 2
    k: int = 0
    mean_size: int = 4
    max_size: int = 0
    clicks_least: float = 0.45
    content_least: float = 0.95
    trust: Trust = dataclasses.field(default_factory=Trust)
    merging: Merging = dataclasses.field(default_factory=Merging)

    def check(self) -> "Settings":
        """Returns these settings.

        Raises:
          UserError: if a value is out of range.
        """
        if self.method not in METHODS:
            raise UserError(
                f'--method is "{self.method}"; it can be {", ".join(METHODS)}.'
            )
        if self.least is not None and not 0 < self.least <= 1:
            raise UserError(
                f"--least is {self.least:g}; it must be above 0 and at most 1. "
                "Leave it out to choose it from the data."
            )
        for name, lowest in dict(neighbours=1, min_samples=2, k=0).items():
            if (value := getattr(self, name)) < lowest:
                flag = _flag(name)
                raise UserError(
                    f"{flag} is {value}; it must be {lowest} or more."
                )
        if self.max_size != 0 and self.max_size < 2:
            raise UserError(
                f"--max-size is {self.max_size}; it must be 2 or more, or 0 "
                "for categories of any size."
            )
        return self


# Settings that a command takes as flags, and what is said of them.
_FLAGS = {
    "method": f"how the first clusters are made: {', '.join(METHODS)}",
    "least": "affinity of neighbours, in (0, 1]; chosen from the data if unset",
    "neighbours": "of each sample by content, within each role",
    "min_samples": "samples near each other that begin a category",
    "k": "clusters of kmeans; chosen from the data if 0",
    "max_size": "samples that a category may have; 0 is any number",
}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds a flag for each setting that a user may want to choose."""
    defaults = Settings()
    for name, about in _FLAGS.items():
        default = getattr(defaults, name)
        kind = float if default is None else type(default)
        parser.add_argument(_flag(name), type=kind, default=default, help=about)


def from_flags(given: argparse.Namespace) -> Settings:
    """The settings that the flags say.

    Raises:
      UserError: if a value is out of range.
    """
    return Settings(**{name: getattr(given, name) for name in _FLAGS}).check()
