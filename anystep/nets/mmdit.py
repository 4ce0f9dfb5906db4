"""FLUX's backbone (Black Forest Labs, 2024; joint attention from SD3, 2403.03206), with the second time of Self-E (2512.22374) by option.

    tokens = Dense(2x2 patches of the latents)         text = Dense(features)
    e      = MLP(sin 1000 t) + MLP(sin 1000 guidance) + MLP(pooled) + MLP_s(sin 1000 (t - s))         the second and the last by option
    double   each stream has weights of its own: q, k, v of modulate(LN x); one attention over text and tokens; x += gate1 out(.);
             x += gate2 mlp(modulate(LN x))
    single   text and tokens side by side: x += gate out([attention, GELU(mlp_in)]), both of the same modulate(LN x)
    head     modulate(LN tokens) -> Dense -> unpack -> u = noise - x0

q and k get an RMS norm a head, then rotary positions over (t, y, x); text lies at the origin. The second time ends in a zero layer: at
first the network does not see s, and one that was imported answers as it did. Parameters are {"embed", "double", "single", "head"},
every leaf of "double" and "single" with the layer axis first; block i < double is a double one. Latents of any even height and width.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from anystep.nets.attention import attend
from anystep.nets.blocks import LayerNorm, Mlp, TimeEmbedding, modulate
from anystep.path import LINEAR, compose
from anystep.types import Model

CLOCK = 1000.0  # times and guidance meet SANA's sinusoid table (rad per unit from 1 down to 1e-4) a thousand times enlarged
BASE = 10000.0  # of the rotary frequencies


class Options(NamedTuple):
    """FLUX schnell; dev has guidance=True. `rope`: how many of a head's numbers turn with t, y and x, all even, together head_width.

    masked: padding of the prompt is no key (FLUX attends to it). shape (H, W, C) says what a sampler draws; other H and W do too.
    """

    shape: tuple[int, int, int] = (128, 128, 16)
    heads: int = 24
    head_width: int = 128
    double: int = 19
    single: int = 38
    rope: tuple[int, int, int] = (16, 56, 56)
    text_width: int = 4096
    pooled_width: int = 768
    guidance: bool = False
    second_time: bool = False
    masked: bool = False
    scan: bool = True
    remat: bool = False
    dtype: str = "float32"

    @property
    def width(self):
        return self.heads * self.head_width


class Embed(nn.Module):
    """Packed latents [B, N, 4 C], times [B] and the condition -> tokens [B, N, D], text [B, L, D], e [B, D] float32."""

    o: Options

    @nn.compact
    def __call__(self, packed, t, s, cond):
        o, dtype = self.o, jnp.dtype(self.o.dtype)
        tokens = nn.Dense(o.width, dtype=dtype, name="patches")(packed.astype(dtype))
        text = nn.Dense(o.width, dtype=dtype, name="text_in")(cond["features"].astype(dtype))
        e = TimeEmbedding(o.width, 1.0, name="time")(CLOCK * t)
        if o.guidance:
            e = e + TimeEmbedding(o.width, 1.0, zero=True, name="guidance")(CLOCK * cond["guidance"])
        pooled = nn.Dense(o.width, name="pooled_in")(cond["pooled"].astype(jnp.float32))
        e = e + nn.Dense(o.width, name="pooled_out")(nn.silu(pooled))
        if o.second_time:
            e = e + TimeEmbedding(o.width, 1.0, zero=True, name="second_time")(CLOCK * (t - s))
        return tokens, text, e


class Modulation(nn.Module):
    """e [B, D] -> `count` vectors [B, D]: (shift, scale, gate) once or twice, or the head's two. Gates start at one, since the branches
    behind them start at zero."""

    count: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, e):
        def gates(key, shape, dtype=jnp.float32):
            return jnp.repeat(jnp.arange(self.count) % 3 == 2, e.shape[-1]).astype(dtype)

        dense = nn.Dense(self.count * e.shape[-1], kernel_init=nn.initializers.normal(0.02), bias_init=gates, name="dense")
        return jnp.split(dense(nn.silu(e)).astype(self.dtype), self.count, axis=-1)


class Heads(nn.Module):
    """x [B, N, D] -> q, k, v [B, N, h, d]; q and k with an RMS norm a head."""

    o: Options

    @nn.compact
    def __call__(self, x):
        o, dtype = self.o, jnp.dtype(self.o.dtype)
        q, k, v = (nn.Dense(o.width, dtype=dtype, name=name)(x).reshape(*x.shape[:2], o.heads, o.head_width) for name in "qkv")
        q, k = (nn.RMSNorm(epsilon=1e-6, dtype=dtype, name=name)(y) for name, y in (("q_norm", q), ("k_norm", k)))
        return q, k, v


class Stream(nn.Module):
    """What text and tokens each have for themselves in a double block: before the joint attention, and after it."""

    o: Options

    def setup(self):
        dtype = jnp.dtype(self.o.dtype)
        self.modulation = Modulation(6, dtype)
        self.attention = Heads(self.o)
        self.out = nn.Dense(self.o.width, dtype=dtype, kernel_init=nn.initializers.zeros)
        self.mlp = Mlp(dtype=dtype)
        self.norm = LayerNorm()

    def before(self, x, e):
        """-> (q, k, v), and the rest of the modulation."""
        shift, scale, *rest = self.modulation(e)
        return self.attention(modulate(self.norm(x), shift, scale)), rest

    def after(self, x, y, rest):
        gate1, shift, scale, gate2 = rest
        x = x + gate1[:, None, :] * self.out(y)
        return x + gate2[:, None, :] * self.mlp(modulate(self.norm(x), shift, scale))


class Double(nn.Module):
    o: Options

    @nn.compact
    def __call__(self, text, tokens, e, rope, mask=None, capture=None):
        streams = Stream(self.o, name="text"), Stream(self.o, name="tokens")
        (its, text_rest), (own, rest) = (stream.before(x, e) for stream, x in zip(streams, (text, tokens), strict=True))
        q, k, v = (jnp.concatenate(pair, axis=1) for pair in zip(its, own, strict=True))
        y, maps = joint_attention(q, k, v, rope, text.shape[1], mask, capture)
        text, tokens = streams[0].after(text, y[:, : text.shape[1]], text_rest), streams[1].after(tokens, y[:, text.shape[1] :], rest)
        return (text, tokens), maps


class Single(nn.Module):
    o: Options

    @nn.compact
    def __call__(self, text, tokens, e, rope, mask=None, capture=None):
        o, dtype = self.o, jnp.dtype(self.o.dtype)
        x = jnp.concatenate([text, tokens], axis=1)
        shift, scale, gate = Modulation(3, dtype, name="modulation")(e)
        y = modulate(LayerNorm()(x), shift, scale)
        attended, maps = joint_attention(*Heads(o, name="attention")(y), rope, text.shape[1], mask, capture)
        hidden = jax.nn.gelu(nn.Dense(4 * o.width, dtype=dtype, name="mlp_in")(y), approximate=True)
        out = nn.Dense(o.width, dtype=dtype, kernel_init=nn.initializers.zeros, name="out")
        x = x + gate[:, None, :] * out(jnp.concatenate([attended, hidden], axis=-1))
        return (x[:, : text.shape[1]], x[:, text.shape[1] :]), maps


class LastNorm(nn.Module):
    o: Options

    @nn.compact
    def __call__(self, tokens, e):
        scale, shift = Modulation(2, tokens.dtype, name="modulation")(e)  # in this order, unlike in the blocks
        return modulate(LayerNorm()(tokens), shift, scale)


class Head(nn.Module):
    """tokens [B, N, D] -> packed velocity [B, N, 4 C] float32."""

    o: Options

    @nn.compact
    def __call__(self, tokens, e):
        y = LastNorm(self.o, name="norm")(tokens, e)
        return nn.Dense(4 * self.o.shape[-1], name="out")(y.astype(jnp.float32))


def joint_attention(q, k, v, rope, length, mask=None, capture=None):
    """(attention over `length` text tokens followed by image tokens, [B, N, D]; maps).

    Maps [B, h, objects, image tokens]: image rows against text keys alone, with a softmax of their own ("Learning to Steer" on FLUX), so
    that they sum to one over the prompt whatever the picture attends to in itself.
    """
    q, k = rotate(q, rope), rotate(k, rope)
    y, maps = attend(q, k, v, mask=mask)
    if capture is not None:
        mask = None if mask is None else mask[:, :length]
        _, maps = attend(q[:, length:], k[:, :length], v[:, :length], mask=mask, capture=capture)
    return y.reshape(*y.shape[:2], -1), maps


def rotary(ids, axes):
    """(cos, sin), each [N, head_width / 2] float32, of positions ids [N, axes]; the angles in float64, as a large picture needs them."""
    frequencies = [1.0 / BASE ** (np.arange(0, width, 2) / width) for width in axes]
    angles = [np.outer(np.asarray(ids, np.float64)[:, i], f) for i, f in enumerate(frequencies)]
    angles = np.concatenate(angles, axis=1)
    return jnp.asarray(np.cos(angles), jnp.float32), jnp.asarray(np.sin(angles), jnp.float32)


def rotate(x, rope):
    """x [B, N, h, d] with its pairs (2 i, 2 i + 1) turned by the angles of `rotary`, in float32."""
    cos, sin = (a[None, :, None, :] for a in rope)
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    return jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape).astype(x.dtype)


def positions(length, rows, columns):
    """ids [length + rows * columns, 3]: text at the origin, then the patches of one picture, row-major (t = 0, y, x)."""
    y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    picture = np.stack([np.zeros_like(y), y, x], axis=-1).reshape(-1, 3)
    return np.concatenate([np.zeros((length, 3), picture.dtype), picture])


def pack(x):
    """[B, H, W, C] -> [B, H W / 4, 4 C]: 2x2 patches row-major, inside one (channel, row, column)."""
    b, h, w, c = x.shape
    if h % 2 or w % 2:
        raise ValueError(f"latents of {h} x {w}: rows and columns must be even, patches are 2 x 2")
    return x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4).reshape(b, h * w // 4, 4 * c)


def unpack(tokens, rows, columns):
    """The inverse of `pack` for a picture of H = rows, W = columns."""
    b, _, width = tokens.shape
    x = tokens.reshape(b, rows // 2, columns // 2, width // 4, 2, 2)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(b, rows, columns, width // 4)


def enter(o, params, packed, ids, t, s, cond):
    """What the blocks need, for packed latents [B, N, 4 C] at any ids [L + N, 3] (numpy)."""
    if o.guidance and "guidance" not in cond:
        raise ValueError('cond: this network was distilled with a guidance scale and reads it, [B], from cond["guidance"] (FLUX dev: 3.5)')
    tokens, text, e = Embed(o).apply({"params": params["embed"]}, packed, t, s, cond)
    h = {"text": text, "tokens": tokens, "e": e, "rope": rotary(ids, o.rope)}
    if o.masked:
        h["mask"] = jnp.concatenate([cond["mask"], jnp.ones(tokens.shape[:2], bool)], axis=1)
    return h


def walk(o, step, stack, streams, lo, hi, cuts):
    """(streams, maps) after the layers lo..hi of a stack; those of `cuts` run by themselves and hand out their maps."""

    def plain(streams, p):
        return step(streams, p, False)[0]

    def run(streams, start, stop):
        one = jax.checkpoint(plain) if o.remat else plain
        layers = jax.tree.map(lambda p: p[start:stop], stack)
        if o.scan and start < stop:
            return jax.lax.scan(lambda c, p: (one(c, p), None), streams, layers)[0]
        for i in range(stop - start):
            streams = one(streams, jax.tree.map(lambda p, i=i: p[i], layers))
        return streams

    maps, start = [], lo
    for i in cuts:
        streams = run(streams, start, i)
        streams, found = step(streams, jax.tree.map(lambda p, i=i: p[i], stack), True)
        maps, start = [*maps, found], i + 1
    return run(streams, start, hi), maps


def build(options: Options, ends="none", gap=0.0, shift=0.0, scale=1.0, constrain=lambda x: x) -> Model:
    """A Model on the linear path. `cond`: features [B, L, text_width], pooled [B, pooled_width], mask [B, L] if masked, guidance [B] if
    guidance. `constrain` pins the sharding of text and tokens between blocks (the identity without a mesh)."""
    o = options
    kinds = {"double": (Double(o), 0, o.double), "single": (Single(o), o.double, o.single)}
    depth = o.double + o.single

    def init(key):
        k_embed, k_double, k_single, k_head = jax.random.split(key, 4)
        t, cond = jnp.zeros(1), {"features": jnp.zeros((1, 1, o.text_width)), "pooled": jnp.zeros((1, o.pooled_width))}
        packed, rope = jnp.zeros((1, 1, 4 * o.shape[-1])), rotary(positions(1, 1, 1), o.rope)
        (tokens, text, e), variables = Embed(o).init_with_output(k_embed, packed, t, t, cond | {"guidance": t})

        def stack(key, kind):
            block, _, count = kinds[kind]
            return jax.vmap(lambda k: block.init(k, text, tokens, e, rope)["params"])(jax.random.split(key, count))

        return {
            "embed": variables["params"],
            "double": stack(k_double, "double"),
            "single": stack(k_single, "single"),
            "head": Head(o).init(k_head, tokens, e)["params"],
        }

    def embed(params, x, t, s, cond):
        ids = positions(cond["features"].shape[1], x.shape[1] // 2, x.shape[2] // 2)
        h = enter(o, params, pack(x), ids, t, s, cond)
        return {**h, "text": constrain(h["text"]), "tokens": constrain(h["tokens"]), "x": x}

    def blocks(params, h, lo, hi, capture=None):
        wanted = sorted(capture.layers) if capture else []
        if len(set(wanted)) < len(wanted) or not set(wanted) <= set(range(depth)):
            raise ValueError(f"capture: layers {capture.layers}, allowed are different ones of 0 to {depth - 1}")
        streams, maps = (h["text"], h["tokens"]), []
        for kind, (block, first, count) in kinds.items():

            def step(streams, p, captured, block=block):
                objects = capture.tokens if captured else None
                streams, found = block.apply({"params": p}, *streams, h["e"], h["rope"], h.get("mask"), objects)
                return jax.tree.map(constrain, streams), found

            start, stop = (min(max(layer - first, 0), count) for layer in (lo, hi))
            cuts = [layer - first for layer in wanted if start <= layer - first < stop]
            streams, found = walk(o, step, params[kind], streams, start, stop, cuts)
            maps += found
        return {**h, "text": streams[0], "tokens": streams[1]}, ({"maps": jnp.stack(maps)} if maps else {})

    def head(params, h):
        return unpack(Head(o).apply({"params": params["head"]}, h["tokens"], h["e"]), *h["x"].shape[1:3])

    told = 1.0 if o.guidance else 0.0
    return compose(Model(LINEAR, ends, o.shape, init, None, embed, blocks, head, depth, None, gap, told, shift, scale, depth))
