"""Training a classifier: cross-entropy of every event (`classifier`), adamw, cosine; each batch under drawn symmetries; the weights that do
best on one half of dev, a temperature fitted to the prompt's words there; what is reported is of the other half. (As published: a softmax
over classes, no symmetries, a plateau schedule.)
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from anystep import tree
from anystep.steering import measures
from anystep.steering.classifier import Reader, cross_entropy
from anystep.steering.examples import Examples
from anystep.steering.symmetry import GROUP, turned

CHECKS = 20  # looks at dev in a training


def logits_of(reader: Reader, params, examples: Examples, batch=256):
    """[N, classes] float32 on the host."""
    found, out = reading(reader), []
    for first in range(0, len(examples.t), batch):
        rows = np.minimum(np.arange(first, first + batch), len(examples.t) - 1)
        out.append(np.asarray(found(params, examples.maps[rows], examples.t[rows]))[: len(examples.t) - first])
    return np.concatenate(out)


@functools.lru_cache(8)
def reading(reader):
    """`reader.logits` of one relation, whose compilations are kept."""
    return jax.jit(lambda params, maps, t: reader.logits(params, maps.astype(jnp.float32), t)[:, 0])


def rate_of(lr, steps):
    return optax.warmup_cosine_decay_schedule(lr / 10, lr, max(steps // 20, 1), max(steps, 2), lr / 20)


def fit(reader: Reader, train: Examples, halves, steps, batch=64, lr=1e-3, decay=0.05, seed=0, symmetries=True, say=lambda text: None):
    """({"relation": weights, "temperature": T}, report) of a fresh Reader.

    train, and of dev (what is chosen by, what is reported on): maps [N, 2, C, side, side] and labels [N, 5] as `Examples` has them, one
    example or more in each. steps: batches of `batch` examples; lr: the largest of the schedule, decay: of weights a step, times lr;
    symmetries: examples are turned as they are drawn; say: takes a line at each of CHECKS looks. report: `report_on` of the second half,
    its mean "cross_entropy" in nats, summed over the events, before the temperature.
    """
    dev, held = halves
    params = reader.init(tree.fold(jax.random.key(seed), "classifier"))
    weights, optimizer = params["relation"], optax.adamw(rate_of(lr, steps), weight_decay=decay)

    @jax.jit
    def step(weights, opt, key, maps, labels, t):
        which = jax.random.randint(tree.fold(key, "symmetry"), (len(t),), 0, GROUP)
        maps, labels = turned(maps.astype(jnp.float32), labels, which) if symmetries else (maps.astype(jnp.float32), labels)

        def loss(weights):
            found = reader.logits({"relation": weights}, maps, t, tree.fold(key, "dropout"))[:, 0]
            return jnp.mean(cross_entropy(found, labels))

        value, gradient = jax.value_and_grad(loss)(weights)
        updates, opt = optimizer.update(gradient, opt, weights)
        return optax.apply_updates(weights, updates), opt, value

    opt, best, key = optimizer.init(weights), (np.inf, weights), tree.fold(jax.random.key(seed), "fit")
    rng = np.random.default_rng(seed)
    for number in range(steps):
        rows = rng.integers(len(train.t), size=batch)
        weights, opt, value = step(weights, opt, jax.random.fold_in(key, number), train.maps[rows], train.labels[rows], train.t[rows])
        if (number + 1) % max(steps // CHECKS, 1) == 0 or number + 1 == steps:
            error = float(jnp.mean(cross_entropy(logits_of(reader, params | {"relation": weights}, dev), dev.labels)))
            say(f"step {number + 1}: loss {float(value):.3f}, dev {error:.3f}")
            best = min(best, (error, weights), key=lambda pair: pair[0])
    params = params | {"relation": best[1]}
    temperature = temperature_of(logits_of(reader, params, dev), dev)
    logits = logits_of(reader, params, held)
    report = {"cross_entropy": float(jnp.mean(cross_entropy(logits, held.labels))), "temperature": temperature}
    return params | {"temperature": jnp.float32(temperature)}, report_on(logits, held, temperature) | report


def temperature_of(logits, dev: Examples):
    """For the prompts' words, which gates ask for; for all four where no prompt has one."""
    if (dev.words >= 0).any():
        return measures.fit_temperature(measures.asked(logits, dev.words), measures.asked(dev.labels, dev.words))
    return measures.fit_temperature(logits[:, :-1], dev.labels[:, :-1])


def report_on(logits, held: Examples, temperature):
    """`measures.report` of all, and under "by_steps" of each number of steps by itself ("0": of noised pictures)."""
    of = {
        str(steps): measures.report(*(part[held.steps == steps] for part in (logits, held.labels, held.words)), temperature)
        for steps in sorted(set(held.steps.tolist()))
    }
    return measures.report(logits, held.labels, held.words, temperature) | {"by_steps": of}
