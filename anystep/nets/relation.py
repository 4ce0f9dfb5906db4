"""Relation classifiers: maps of two objects [B, 2, C, S, S], one a layer and head, to logits of how the first stands to the second.

    faithful   "Learning to Steer" (2509.02295, as released): each map a token, + sinusoids over the C tokens, encoder layers with a learned
               time added before each, a learned query pools them to one S x S map an object; both maps side by side through more layers and
               an MLP. `FLUX` has 4.85 M parameters, `STABLE` 1.96 M
    light      the C maps mixed to a few channels, the same Dense for both objects, an MLP over both and the time: tens of thousands

As published, maps that sum to one over their places, 1/S^2 each, meet sinusoids of one, from which little is learned in 1,000 steps (the
base of `configs/steer_shapes.py`: cross-entropy 2.59, and below 2 after 100 with maps times S^2): `scaled`.

Unlike the paper: dropout is on residual branches and in the feed-forwards, not on attention's probabilities.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from anystep.nets.attention import attend
from anystep.nets.blocks import sinusoid


class Faithful(NamedTuple):
    """maps: C; clock: flow times of the sampler's steps, decreasing, and `trained` the numbers of those that have been learned; scaled:
    maps times side^2, about one where they sum to one, as published are not."""

    maps: int
    clock: tuple[float, ...]
    trained: tuple[int, ...]
    side: int = 16
    classes: int = 5
    width: int = 256
    layers: int = 4
    heads: int = 4
    hidden: int = 512
    pool_heads: int = 4
    pair_layers: int = 4
    pair_heads: int = 8
    dropout: float = 0.3
    scaled: bool = False


class Light(NamedTuple):
    maps: int
    side: int = 8
    classes: int = 5
    channels: int = 4
    width: int = 48
    dropout: float = 0.1


FLUX = {}  # beside C and the clock
STABLE = {"layers": 2, "heads": 2, "hidden": 128, "pool_heads": 2, "pair_layers": 2, "pair_heads": 4}


class Net(NamedTuple):
    init: Callable[[jax.Array], Any]
    apply: Callable[..., jax.Array]  # (params, maps [B, 2, C, S, S], flow times [B], key=None) -> logits; a key turns dropout on


class Drop(nn.Module):
    """Dropout while there is a key."""

    rate: float

    @nn.compact
    def __call__(self, x):
        return nn.Dropout(self.rate, deterministic=not self.has_rng("dropout"))(x)


class Heads(nn.Module):
    """Attention with biases everywhere, a last layer that does not start at zero."""

    heads: int

    @nn.compact
    def __call__(self, x, context):
        width, sources = x.shape[-1], {"q": x, "k": context, "v": context}
        q, k, v = (nn.Dense(width, name=name)(y).reshape(*y.shape[:2], self.heads, -1) for name, y in sources.items())
        return nn.Dense(width, name="out")(attend(q, k, v)[0].reshape(x.shape))


class Layer(nn.Module):
    """x += attention(LN x);  x += Dense ReLU Dense LN x."""

    heads: int
    hidden: int
    dropout: float

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm(epsilon=1e-5, name="norm1")(x)
        x = x + Drop(self.dropout)(Heads(self.heads, name="attention")(y, y))
        y = nn.relu(nn.Dense(self.hidden, name="in")(nn.LayerNorm(epsilon=1e-5, name="norm2")(x)))
        return x + Drop(self.dropout)(nn.Dense(x.shape[-1], name="out")(Drop(self.dropout)(y)))


class FaithfulNet(nn.Module):
    o: Faithful

    @nn.compact
    def __call__(self, maps, t):
        o, (b, objects, c, side, _) = self.o, maps.shape
        row = row_of(t, o.clock, o.trained)
        times = nn.Embed(len(o.clock), o.width, name="times")(row)
        x = maps.reshape(b * objects, c, side * side) * (side**2 if o.scaled else 1)
        x = nn.Dense(o.width, name="map_in")(x) + places(c, o.width)[None]
        for i in range(o.layers):
            x = Layer(o.heads, o.hidden, o.dropout, name=f"map_layer_{i}")(x + jnp.repeat(times, objects, axis=0)[:, None, :])
        query = self.param("query", nn.initializers.normal(0.02), (o.width,))
        pooled = Heads(o.pool_heads, name="pool")(jnp.broadcast_to(query[None, None], (b * objects, 1, o.width)), x)
        found = nn.Dense(side * side, name="map_out")(pooled)
        y = nn.Dense(o.width, name="pair_in")(found.reshape(b, 1, objects * side * side)) + places(1, o.width)[None]
        for i in range(o.pair_layers):
            y = Layer(o.pair_heads, o.hidden, o.dropout, name=f"pair_layer_{i}")(y)
        y = jnp.concatenate([y[:, 0], nn.Embed(len(o.clock), 16, name="pair_times")(row)], axis=-1)
        for i, width in enumerate((o.width, o.width // 2)):
            y = nn.LayerNorm(epsilon=1e-5, name=f"norm_{i}")(nn.Dense(width, name=f"dense_{i}")(y))
            y = Drop(o.dropout)(nn.leaky_relu(y, 0.1))
        return nn.Dense(o.classes, name="logits")(y)


class LightNet(nn.Module):
    o: Light

    @nn.compact
    def __call__(self, maps, t):
        o, (b, objects, _, side, _) = self.o, maps.shape
        x = maps.transpose(0, 1, 3, 4, 2) * side**2  # about one, where a map sums to one
        x = nn.silu(nn.Dense(o.channels, name="mix")(x))
        x = nn.Dense(o.width, name="object")(Drop(o.dropout)(x.reshape(b, objects, -1)))
        y = jnp.concatenate([x.reshape(b, -1), sinusoid(t, 16, 4.0, 16.0)], axis=-1)
        for i in range(2):
            y = Drop(o.dropout)(nn.silu(nn.Dense(o.width, name=f"dense_{i}")(y)))
        return nn.Dense(o.classes, name="logits")(y)


def row_of(t, clock, trained):
    """Flow times [B] -> the next step of `trained` at or after each, else the last one: the rule of the released code."""
    times = jnp.array([clock[i] for i in trained], jnp.float32)
    before = jnp.sum(times[None] > t[:, None] + 1e-4, axis=1)
    return jnp.array(trained, jnp.int32)[jnp.minimum(before, len(trained) - 1)]


def places(count, width):
    """[count, width] sinusoids, sine and cosine in turn (1706.03762)."""
    angles = np.arange(count)[:, None] * np.exp(-np.log(1e4) * np.arange(0, width, 2) / width)[None]
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(count, width).astype(np.float32)


def build(options: Faithful | Light) -> Net:
    """The classifier of its options."""
    o, module = options, (FaithfulNet if isinstance(options, Faithful) else LightNet)(options)

    def init(key):
        return module.init(key, jnp.zeros((1, 2, o.maps, o.side, o.side)), jnp.zeros(1))["params"]

    def apply(params, maps, t, key=None):
        return module.apply({"params": params}, maps, t, rngs={} if key is None else {"dropout": key})

    return Net(init, apply)
