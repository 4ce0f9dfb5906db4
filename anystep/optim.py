"""Optimizers as optax chains: clipping, adamw or muon, decoupled weight decay, warm-up and cosine. No EMA: see `tree.ema_update`.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) replaces the momentum M = U S V' of a matrix by about U V': five
Newton-Schulz iterations X <- a X + b (X X') X + c (X X')^2 X, in optax.contrib, after which singular values lie near 1 (not at 1: the
coefficients trade the limit for speed). The step is scaled by rms sqrt(max(in, out)); with rms = 0.2 it has the root mean square of an
adamw step (Liu et al. 2025, arXiv:2502.16982, eq. 4), so that both kinds of leaf share one learning rate and one weight decay; models
that train for minutes learn faster at 0.6. `optax.contrib.muon` itself is not used because it makes Nadam of the other leaves' adamw.

`is_matrix` says which leaves are muon's, `is_decayed` which decay. Kernels [L, in, out] are orthogonalised matrix by matrix (batched).
"""

import jax
import optax

from anystep import tree
from anystep.errors import UserError

MOMENTUM = 0.95  # muon's, Nesterov; b1 and b2 are adamw's


def is_matrix(name: str, leaf) -> bool:
    """Muon's leaves: dense kernels [L, in, out] inside the blocks. Not the taps [L, 9, C] of a depthwise convolution, tables [L, 6, C],
    biases and norms [L, C], nor anything outside the blocks: embeddings, first and last layers."""
    way = name.split("/")
    return "blocks" in way and way[-1] == "kernel" and "depth" not in way and len(leaf.shape) == 3


def is_decayed(name: str, leaf) -> bool:
    """Weight decay is for kernels only: not for biases, norms, embeddings and tables."""
    del leaf
    return name.split("/")[-1] == "kernel"


def schedule(optim, steps: int) -> optax.Schedule:
    """Learning rate of update n: lr (n + 1) / (warmup + 1), never 0, to n = warmup; then a cosine down to final_lr * lr at n = steps."""
    return optax.warmup_cosine_decay_schedule(
        init_value=optim.lr / (optim.warmup + 1),
        peak_value=optim.lr,
        warmup_steps=optim.warmup,
        decay_steps=max(steps, optim.warmup + 1),
        end_value=optim.final_lr * optim.lr,
    )


def make_optimizer(optim, steps: int, times: float = 1.0) -> optax.GradientTransformation:
    """The chain for `config.optim` over `steps` updates at `times` its learning rate; `update` needs the params; clip = 0 is off. Raises
    UserError for a wrong name."""
    plain = schedule(optim, steps)
    rate = plain if times == 1.0 else lambda count: times * plain(count)
    adamw = optax.adamw(rate, b1=optim.b1, b2=optim.b2, weight_decay=optim.weight_decay, mask=_named(is_decayed))
    if optim.name == "adamw":
        chosen = adamw
    elif optim.name == "muon":
        chosen = optax.partition({"muon": _muon(rate, optim.muon_rms, optim.weight_decay), "adamw": adamw}, _labels)
    else:
        raise UserError(f"config.optim.name = {optim.name!r}: allowed are 'adamw', 'muon'")
    return optax.chain(optax.clip_by_global_norm(optim.clip), chosen) if optim.clip else chosen


def beside_trunk(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same for params {"trunk", ...} but for the trunk, which has no state and gets no update: neither does weight decay reach it."""
    kinds = {"moved": optimizer, "kept": optax.set_to_zero()}
    return optax.partition(kinds, lambda params: {part: "kept" if part == "trunk" else "moved" for part in params})


def _muon(rate, rms, weight_decay) -> optax.GradientTransformation:
    last_two = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
    return optax.chain(
        optax.contrib.scale_by_muon(beta=MOMENTUM, weight_dimension_numbers=lambda updates: jax.tree.map(lambda _: last_two, updates)),
        optax.stateless(lambda updates, _: jax.tree.map(lambda u: rms * max(u.shape[-2:]) ** 0.5 * u, updates)),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(rate),
    )


def _named(predicate):
    """A predicate on (name, leaf) as a function from a tree to a tree of booleans."""
    return lambda params: jax.tree.unflatten(jax.tree.structure(params), [predicate(*item) for item in tree.paths(params).items()])


def _labels(params):
    return jax.tree.map(lambda matrix: "muon" if matrix else "adamw", _named(is_matrix)(params))
