"""The state of a run: what `train_step` moves and a checkpoint holds. Arrays only."""

import jax
import jax.numpy as jnp

from anystep import spikes, tree
from anystep.types import TrainState

EMA = "main"  # the name of the average that evaluates, samples and is exported
AVERAGED = ("net", "text")  # what draws; nobody asks for an average of the others
HEADS = "discriminator"  # whose steps alternate with those of all others
SAID = ("loss/discriminator", "discriminator/real", "discriminator/fake", "grad_norm/discriminator")  # of the last step of the heads


def init_state(models, optimizers, seed, window=128) -> TrainState:
    """Step 0: fresh weights of every role in `optimizers`, the average of those that draw equal to them, a guard that looks back over
    `window` steps of each kind, what the heads of a discriminator know without a gradient."""
    key, buffers = jax.random.key(seed), {}
    params = {role: models[role].init(tree.fold(key, f"init/{role}")) for role in optimizers}
    if HEADS in params:
        norms = models[HEADS].buffers(tree.fold(key, f"buffers/{HEADS}"), params[HEADS])
        buffers[HEADS] = {"norms": norms, "said": jnp.zeros(len(SAID))}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt={role: optimizers[role].init(params[role]) for role in optimizers},
        ema={EMA: averaged(params)},
        buffers=buffers,
        guard=spikes.empty(window, 1 + (HEADS in params)),
    )


def averaged(params):
    """A copy of the roles that have an average."""
    return {role: jax.tree.map(jnp.copy, params[role]) for role in AVERAGED if role in params}
