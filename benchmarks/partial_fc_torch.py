"""A PartialFC step in plain PyTorch, to compare with.

Written from the description in An et al., "Killing Two Birds with One Stone:
Efficient and Robust Training of Face Recognition CNNs by Partial FC", arXiv
2203.15565: the categories of the batch and uniform random others, up to the
active share, are gathered with their momentum; a softmax with a CosFace margin
over them; SGD with momentum on the gathered rows, which are scattered back.
On one device, in f32.
"""

import importlib.util
import math
from typing import Any

from benchmarks.contenders import (
    LEARNING_RATE,
    MOMENTUM,
    Contender,
    Problem,
    work,
)
from mixer_jax.runtime.errors import UserError

NAME = "pytorch_partial_fc"


def available() -> bool:
    """Whether torch can be imported."""
    return importlib.util.find_spec("torch") is not None


def device() -> str:
    """Where it runs: "cuda" or "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class PartialFC:
    """The proxies, their momentum, and the step.

    Attributes:
      proxies: torch f32 `[C, D]`.
      momentum: torch f32 `[C, D]`.
      active: M, rows of a step.
    """

    def __init__(
        self,
        proxies: Any,
        active: int,
        scale: float,
        margin: float,
        learning_rate: float = LEARNING_RATE,
        decay: float = MOMENTUM,
    ):
        import torch

        self.proxies, self.active = proxies, active
        # Written, not only reserved: pages nobody wrote would not count.
        self.momentum = torch.empty_like(proxies).fill_(0.0)
        self._scale, self._margin = scale, margin
        self._learning_rate, self._decay = learning_rate, decay

    def sample(self, labels: Any) -> Any:
        """Returns the active rows, int64 `[M]`, sorted.

        Every row draws a number, positives one above all others; the M highest
        are active.
        """
        import torch

        count, device = len(self.proxies), self.proxies.device
        if self.active >= count:
            return torch.arange(count, device=device)
        draws = torch.rand(count, device=device)
        draws[labels] = 2.0
        highest = torch.topk(draws, self.active, sorted=False).indices
        return highest.sort().values

    def step(self, embeddings: Any, labels: Any) -> tuple[Any, Any]:
        """Updates the active rows.

        Args:
          embeddings: torch f32 `[B, D]`.
          labels: torch int64 `[B]`.

        Returns:
          The mean loss, and the embeddings' gradient.
        """
        import torch
        from torch.nn import functional

        index = self.sample(labels)
        rows = self.proxies[index].requires_grad_()
        velocity = self.momentum[index]
        embeddings = embeddings.detach().requires_grad_()
        target = torch.searchsorted(index, labels)
        unit = self._scale * functional.normalize(embeddings)
        logits = unit @ functional.normalize(rows).T
        each = torch.arange(len(labels), device=labels.device)
        logits[each, target] -= self._scale * self._margin
        loss = functional.cross_entropy(logits, target)
        gradient, d_embeddings = torch.autograd.grad(loss, (rows, embeddings))
        with torch.no_grad():
            velocity.mul_(self._decay).add_(gradient)
            rows.sub_(self._learning_rate * velocity)
            self.proxies.index_copy_(0, index, rows.detach())
            self.momentum.index_copy_(0, index, velocity)
        return loss.detach(), d_embeddings


def make_contender(problem: Problem, active: float) -> Contender:
    """Makes the peer of `sampled`, with arrays of its own.

    They are made by the first step. It runs on a GPU where torch has one.

    Raises:
      UserError: if the active set is too small to hold a batch's positives.
    """
    config = problem.config()
    rows = math.ceil(active * problem.classes)
    if rows < min(problem.batch, problem.classes):
        raise UserError(
            f"--active={active} activates {rows} proxies, but a batch of "
            f"{problem.batch} may be of as many categories; set it higher."
        )
    made = []

    def fill():
        import torch

        place = device()
        # What JAX multiplies f32 matrices with on a GPU by default: TF32.
        torch.set_float32_matmul_precision("high")
        torch.manual_seed(0)
        proxies = torch.empty(problem.classes, problem.dim, device=place)
        for part in proxies.split(4096):
            part.normal_()
            part.div_(part.norm(dim=1, keepdim=True))
        peer = PartialFC(proxies, rows, config.scale, config.margin_size)
        embeddings = torch.randn(problem.batch, problem.dim, device=place)
        labels = torch.randint(problem.classes, (problem.batch,), device=place)
        made.append((peer, embeddings, labels))

    def run(arrays, key):
        del arrays, key
        import torch

        if not made:
            fill()
        peer, embeddings, labels = made[0]
        loss, d_embeddings = peer.step(embeddings, labels)
        if device() == "cuda":
            torch.cuda.synchronize()
        return loss, d_embeddings

    return Contender(
        head=NAME,
        active=active,
        rows=rows,
        **work(problem, rows),
        run=run,
    )
