"""Settings for finding categories, and their command-line flags."""

import argparse
import dataclasses
import numbers
from typing import Any

from mixer_jax.categories.clustering.merging import Merging
from mixer_jax.categories.evidence.affinity import Trust
from mixer_jax.runtime.errors import UserError

METHODS = ("dbscan", "hdbscan", "components", "kmeans")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings for finding categories; the defaults work for any log.

    Attributes:
      method: method for the initial clusters, one of `METHODS`.
      neighbors: k, number of content neighbors per sample and role.
      threshold: affinity threshold for two samples to be neighbors (DBSCAN's
        eps is 1 - threshold). None chooses it from the data, see `knee`.
      cohesion: mean affinity threshold for parts of a cluster to stay together.
      min_samples: parameter of DBSCAN and HDBSCAN; 2 allows categories of two
        samples.
      k: number of k-means clusters; 0 means one per `mean_size` samples.
      mean_size: mean number of samples per k-means cluster.
      max_size: maximum number of samples per category; 0 for no limit. Copies
        of the same content stay together regardless.
      clicks_threshold: affinity threshold for two samples to be neighbors when
        only clicks are used.
      content_threshold: cosine threshold for two samples of one role to be
        neighbors when only content is used; most variants of a drawing are
        below it.
      trust: weights of clicks and content.
      merging: thresholds for merging two clusters.
    """

    method: str = "dbscan"
    neighbors: int = 10
    threshold: float | None = None
    cohesion: float = 0.085
    min_samples: int = 2
    k: int = 0
    mean_size: int = 4
    max_size: int = 0
    clicks_threshold: float = 0.45
    content_threshold: float = 0.95
    trust: Trust = dataclasses.field(default_factory=Trust)
    merging: Merging = dataclasses.field(default_factory=Merging)

    def check(self) -> "Settings":
        """Validates and returns these settings.

        Raises:
          UserError: if a value is out of range or has the wrong type.
        """
        for name in _FLAGS:
            _check_type(name, getattr(self, name))
        if self.method not in METHODS:
            raise UserError(
                f'--method is "{self.method}"; it must be one of '
                f"{', '.join(METHODS)}."
            )
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise UserError(
                f"--threshold is {self.threshold:g}; it must be greater than "
                "0 and at most 1. Omit it to have it chosen from the data."
            )
        for name, lowest in dict(neighbors=1, min_samples=2, k=0).items():
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


# Settings available as flags, and their help texts.
_FLAGS = {
    "method": f"clustering method: {', '.join(METHODS)}",
    "threshold": "minimum affinity of neighbors, at most 1; chosen from the "
    "data if unset",
    "neighbors": "content neighbors per sample, within each role",
    "min_samples": "minimum number of nearby samples to start a category",
    "k": "number of k-means clusters; chosen from the data if 0",
    "max_size": "maximum samples per category; 0 for no limit",
}


def _check_type(name: str, value: Any) -> None:
    """Checks the type of a setting; Python callers may pass any type."""
    default = getattr(Settings, name)
    if value is None and default is None:
        return
    kind, expected = {
        str: (str, "text"),
        int: (numbers.Integral, "a whole number"),
    }.get(type(default), (numbers.Real, "a number"))
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(f"{_flag(name)} is {value!r}; it must be {expected}.")


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
    """Returns the settings given by the flags.

    Raises:
      UserError: if a value is out of range.
    """
    return Settings(**{name: getattr(given, name) for name in _FLAGS}).check()
