"""PartialFC step in plain PyTorch, for comparison.

The step follows An et al., "Killing Two Birds with One Stone: Efficient and
Robust Training of Face Recognition CNNs by Partial FC", arXiv 2203.15565. It
gathers the proxies and momentum of the batch's categories and of uniformly
drawn others, up to the active share, computes a softmax with a CosFace margin
over them, applies SGD with momentum to the gathered rows, and scatters them
back. It runs on one device, in f32.
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
    """Returns whether torch is installed."""
    return importlib.util.find_spec("torch") is not None


def device() -> str:
    """Returns the device of the step: "cuda" or "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class PartialFC:
    """A PartialFC head: proxies, their momentum, and the step.

    Attributes:
      proxies: torch f32 `[C, D]`.
      momentum: torch f32 `[C, D]`.
      active: M, active rows per step.
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
        # Fill explicitly: untouched pages would not count as resident memory.
        self.momentum = torch.empty_like(proxies).fill_(0.0)
        self._scale, self._margin = scale, margin
        self._learning_rate, self._decay = learning_rate, decay

    def sample(self, labels: Any) -> Any:
        """Returns the active rows, int64 `[M]`, sorted.

        Every row draws a random score, and positives get a higher one; the M
        rows with the highest scores are active.
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
        """Computes the loss and its gradients, and updates the active rows.

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
    """Makes the counterpart of `sampled`, with its own arrays.

    The first step allocates the arrays, on a GPU if torch finds one.

    Raises:
      UserError: if the active set is too small to hold a batch's positives.
    """
    config = problem.config()
    rows = math.ceil(active * problem.classes)
    if rows < min(problem.batch, problem.classes):
        raise UserError(
            f"--active={active} activates {rows} proxies, but all "
            f"{problem.batch} samples of a batch may differ in category; "
            "increase it."
        )
    made = []

    def fill():
        import torch

        place = device()
        # Use TF32, JAX's default for products of f32 matrices on GPUs.
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
