"""Training what steers: a classifier on examples, and a network that corrects noises on the classifier's loss.

classifier   cross-entropy with the label's shares, adamw, cosine; each batch under drawn symmetries; the weights that do best on dev, then
             a temperature fitted there. (As published: no symmetries, a plateau schedule.)
correction   CE(classifier(maps(z + dz)), asked) + penalty / 2 mean dz^2                  HyperNoise (2508.09968) with the classifier's loss
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from anystep import tree
from anystep.arrays import mean_square, norm
from anystep.nets import correction
from anystep.steering import measures
from anystep.steering.classifier import Reader
from anystep.steering.examples import Examples
from anystep.steering.program import At, Method, Program
from anystep.steering.symmetry import GROUP, turned

CHECKS = 20  # looks at dev in a training


def logits_of(reader: Reader, params, examples: Examples, batch=256):
    """[N, classes] float32 on the host."""
    found = jax.jit(lambda maps, t: reader.logits(params, maps.astype(jnp.float32), t)[:, 0])
    out = []
    for first in range(0, len(examples.t), batch):
        rows = np.minimum(np.arange(first, first + batch), len(examples.t) - 1)
        out.append(np.asarray(found(examples.maps[rows], examples.t[rows]))[: len(examples.t) - first])
    return np.concatenate(out)


def rate_of(lr, steps):
    return optax.warmup_cosine_decay_schedule(lr / 10, lr, max(steps // 20, 1), max(steps, 2), lr / 20)


def fit(
    reader: Reader, train: Examples, dev: Examples, steps, batch=64, lr=1e-3, decay=0.05, seed=0, symmetries=True, say=lambda text: None
):
    """({"relation", "temperature"}, report on dev)."""
    params = reader.init(tree.fold(jax.random.key(seed), "classifier"))
    weights, optimizer = params["relation"], optax.adamw(rate_of(lr, steps), weight_decay=decay)

    @jax.jit
    def step(weights, opt, key, maps, labels, t):
        which = jax.random.randint(tree.fold(key, "symmetry"), (len(t),), 0, GROUP)
        maps, labels = turned(maps.astype(jnp.float32), labels, which) if symmetries else (maps.astype(jnp.float32), labels)

        def loss(weights):
            found = reader.logits({"relation": weights}, maps, t, tree.fold(key, "dropout"))[:, 0]
            return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(found), axis=-1))

        value, gradient = jax.value_and_grad(loss)(weights)
        updates, opt = optimizer.update(gradient, opt, weights)
        return optax.apply_updates(weights, updates), opt, value

    opt, best, key = optimizer.init(weights), (np.inf, weights), tree.fold(jax.random.key(seed), "fit")
    rng = np.random.default_rng(seed)
    for number in range(steps):
        rows = rng.integers(len(train.t), size=batch)
        weights, opt, value = step(weights, opt, jax.random.fold_in(key, number), train.maps[rows], train.labels[rows], train.t[rows])
        if (number + 1) % max(steps // CHECKS, 1) == 0 or number + 1 == steps:
            found = logits_of(reader, params | {"relation": weights}, dev)
            error = -float(np.mean(np.sum(dev.labels * np.asarray(jax.nn.log_softmax(found)), -1)))
            say(f"step {number + 1}: loss {float(value):.3f}, dev {error:.3f}")
            best = min(best, (error, weights), key=lambda pair: pair[0])
    params = params | {"relation": best[1]}
    found = logits_of(reader, params, dev)
    temperature = measures.fit_temperature(found, dev.labels)
    report = measures.report(found, dev.labels, dev.words, temperature) | {"cross_entropy": best[0], "temperature": temperature}
    return params | {"temperature": jnp.float32(temperature)}, report


def fit_correction(
    reader: Reader, params, walk_of, batch_of, prompts, t, s, steps, batch=32, lr=1e-3, penalty=1.0, seed=0, say=lambda text: None
):
    """{"correction": weights}. batch_of(rows) -> data of some of the `prompts` that there are, on the host; walk_of(data) -> (their Walk,
    told without the correction), traced; t, s: what the network is told at the first step, in the path's time."""
    net, program = correction.build(reader.corrects), Program(reader, Method(0, amortised=True, calibrated=False))
    optimizer, weights = optax.adam(rate_of(lr, steps)), net.init(tree.fold(jax.random.key(seed), "correction"))

    @jax.jit
    def step(weights, opt, key, data):
        walk, told = walk_of(data)
        rows = told["asked"].word.shape[0]
        sigma = walk.net.path.sigma(jnp.float32(t))
        x = sigma * tree.normal(jax.random.split(key, rows), reader.corrects.shape)
        times = (jnp.full(rows, t, jnp.float32), jnp.full(rows, s, jnp.float32))

        def loss(weights):
            here = At(program, walk, told | {"params": params | {"correction": weights}}, *times, jnp.int32(0))
            there = here.corrected(x, norm(x))
            found = jnp.mean(here.see(there)[0])
            return found + 0.5 * penalty * jnp.mean(mean_square((there - x) / sigma)), found

        (_, found), gradient = jax.value_and_grad(loss, has_aux=True)(weights)
        updates, opt = optimizer.update(gradient, opt, weights)
        return optax.apply_updates(weights, updates), opt, found

    opt, key, rng, recent = optimizer.init(weights), tree.fold(jax.random.key(seed), "amortise"), np.random.default_rng(seed), []
    for number in range(steps):
        rows = rng.integers(prompts, size=batch)
        weights, opt, found = step(weights, opt, jax.random.fold_in(key, number), batch_of(rows))
        recent.append(found)
        if (number + 1) % max(steps // CHECKS, 1) == 0 or number + 1 == steps:
            say(f"step {number + 1}: loss of the classifier {float(np.mean(recent)):.3f}")
            recent = []
    return {"correction": weights}
