"""SGD with momentum for rows of which each step touches only some."""

import jax.numpy as jnp

from mixer_jax.proxies import interface


def sparse_sgd(
    momentum: float = 0.0, weight_decay: float = 0.0
) -> interface.RowOptimizer:
    """Returns SGD with momentum, row by row.

    For a row that is active in a step,

      v <- g + weight_decay * w + momentum * v
      w <- w - learning_rate * v

    A row that rests keeps its w and its v: its clock stands still. So a row
    moves as it would under `optax.sgd` in a run that has only the steps in
    which the row was active, and where all rows are active the two are the
    same. The price is that a row wakes with the velocity it fell asleep with.

    Args:
      momentum: decay of the velocity; at 0 no velocity is kept.
      weight_decay: added to the gradient, as in `optax.add_decayed_weights`
        before `optax.sgd`. Only the norm of a proxy feels it.
    """

    def init(proxies):
        return jnp.zeros_like(proxies) if momentum else ()

    def update(gradients, velocity, rows, learning_rate):
        if weight_decay:
            gradients += weight_decay * rows
        if momentum:
            gradients = velocity = gradients + momentum * velocity
        return rows - learning_rate * gradients, velocity

    return interface.RowOptimizer(init, update)
