"""The state of a run: what `train_step` moves and a checkpoint holds. Arrays only."""

import jax
import jax.numpy as jnp

from anystep import spikes, tree
from anystep.types import TrainState

EMA = "main"  # the name of the average that evaluates, samples and is exported


def init_state(models, optimizers, seed, window=128) -> TrainState:
    """Step 0: fresh weights of every role in `optimizers`, their average equal to them, a guard that looks back over `window` steps."""
    params = {role: models[role].init(tree.fold(jax.random.key(seed), f"init/{role}")) for role in optimizers}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt={role: optimizers[role].init(params[role]) for role in optimizers},
        ema={EMA: jax.tree.map(jnp.copy, params)},
        buffers={},
        guard=spikes.empty(window),
    )
