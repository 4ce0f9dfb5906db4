"""The default backbone: a diffusion transformer of SANA's kind (2410.10629, 2503.09641) with a second time.

    tokens = patchify(stem(x))         3x3 convolutions in stem and head, optional (SANA has none), a skip between, gated by time
    e      = MLP(sin t) + MLP_s(sin (t - s))           the second time is zero-initialised: at first the network does not see s
    m      = Dense(SiLU e) in R^{6 D}, shared by all blocks; each block adds its own table [6, D]
    block    x += gate1 attention(modulate(LN x));  x += cross(x, text);  x += gate2 feed_forward(modulate(LN x))
    out      modulate(LN x) -> unpatchify -> head -> v, or x0 with u = (x_t - x0) / max(t, 0.05)

Self-attention is softmax or ReLU-linear, the feed-forward an MLP or SANA's gated depthwise convolution, positions sin-cos or none.
Parameters are {"embed", "blocks", "head"}; every leaf of "blocks" has the layer axis first. A sample may have another height and width than
`Options.shape`. `cond` is {"features", "mask"}, with "guidance" [B] where the network has learned to be told the scale, and "control"
[K, B, N, D], residuals that a ControlNet adds after blocks 1 to K.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from anystep.arrays import expand
from anystep.nets.attention import Attention
from anystep.nets.blocks import GatedConv, LayerNorm, Mlp, TimeEmbedding, modulate, shifts, sincos_positions
from anystep.path import LINEAR, coefficients, compose
from anystep.types import Model, Path

TOLD = 0.1  # SANA-Sprint's unit of guidance
SIGMA_MIN = 0.05  # an x0-prediction is not divided by less: the velocity of nearly clean pictures is noise of the network, magnified


class Options(NamedTuple):
    """shape (H, W, C) of a sample; width divisible by heads and cross_heads; H and W divisible by patch."""

    shape: tuple[int, int, int] = (16, 16, 3)
    width: int = 128
    depth: int = 4
    heads: int = 4
    cross_heads: int = 4
    patch: int = 4
    attention: str = "softmax"
    ffn: str = "mlp"
    mlp_ratio: float = 4.0
    positions: str = "sincos"
    qk_norm: bool = True
    stem: int = 64
    predicts: str = "x0"
    time_frequency: float = 4.0
    time_span: float = 16.0
    scan: bool = True
    remat: bool = False
    dtype: str = "float32"
    products: bool = False  # the stem's convolutions as products, for gradients under a `lax.cond`: see conv3x3
    # what SANA's checkpoints have and the models of the configs here do not
    second_time: bool = True
    time_scale: float = 1.0  # of the network's clock over ours: 1000 where steps were counted
    guidance: bool = False
    qkv_bias: bool = False
    affine: bool = False  # the feed-forward's norm
    span: float = 16.0  # of the places
    text_width: int = 0  # of the features, where a checkpoint says it; a config has it from its text encoder

    @property
    def fold(self):
        """Pixels a side of one position of stem and head: half the resolution, where four times the channels cost the same."""
        return 2 if self.stem and self.patch % 2 == 0 else 1

    @property
    def grid(self):
        return self.shape[0] // self.patch, self.shape[1] // self.patch


class Embed(nn.Module):
    o: Options

    @nn.compact
    def __call__(self, x, t, s, text, guidance=None):
        o, dtype = self.o, jnp.dtype(self.o.dtype)
        x = x.astype(dtype)
        stem = x
        if o.stem:
            stem = conv3x3(o, o.stem, "stem_in", dtype)(space_to_depth(x, o.fold))
            stem = stem + conv3x3(o, o.stem, "stem_out", dtype)(nn.silu(stem))
        tokens = nn.Dense(o.width, dtype=dtype, name="patches")(patchify(stem, o.patch // o.fold))
        if o.positions != "none":
            tokens = tokens + sincos_positions(*o.grid, o.width, o.span, o.positions == "sincos_columns")[None].astype(dtype)
        e = TimeEmbedding(o.width, o.time_frequency, o.time_span, name="time")(t * o.time_scale)
        if o.second_time:
            e = e + TimeEmbedding(o.width, o.time_frequency, o.time_span, zero=True, name="second_time")((t - s) * o.time_scale)
        if o.guidance:
            e = e + TimeEmbedding(o.width, o.time_frequency, o.time_span, zero=True, name="guidance")(guidance)
        m = nn.Dense(6 * o.width, kernel_init=nn.initializers.normal(0.02), name="modulation")(nn.silu(e))
        y = nn.Dense(o.width, dtype=dtype, name="text_in")(text.astype(dtype))
        y = nn.Dense(o.width, dtype=dtype, name="text_out")(jax.nn.gelu(y, approximate=True))
        y = nn.RMSNorm(epsilon=1e-5, dtype=dtype, name="text_norm")(y)
        return tokens, {"e": e, "modulation": m.reshape(-1, 6, o.width), "text": y, "stem": stem}


class Block(nn.Module):
    o: Options

    @nn.compact
    def __call__(self, x, modulation, text, mask, capture=None):
        o, dtype = self.o, jnp.dtype(self.o.dtype)
        table = self.param("table", block_table, (6, o.width))
        m = (modulation + table[None]).astype(dtype)
        shift1, scale1, gate1, shift2, scale2, gate2 = (m[:, i] for i in range(6))
        y, _ = Attention(o.heads, o.attention, o.qk_norm, o.qkv_bias, dtype, name="attention")(modulate(LayerNorm()(x), shift1, scale1))
        x = x + gate1[:, None, :] * y
        y, maps = Attention(o.cross_heads, "softmax", o.qk_norm, qkv_bias=True, dtype=dtype, name="cross")(x, text, mask, capture)
        x = x + y
        feed_forward = Mlp(o.mlp_ratio, dtype, name="mlp") if o.ffn == "mlp" else GatedConv(o.grid, o.mlp_ratio, dtype, name="conv")
        y = LayerNorm(affine=o.affine, name="norm")(x)
        return x + gate2[:, None, :] * feed_forward(modulate(y, shift2, scale2)), maps


class Head(nn.Module):
    o: Options

    @nn.compact
    def __call__(self, tokens, e, stem):
        o, dtype = self.o, jnp.dtype(self.o.dtype)
        table = self.param("table", nn.initializers.normal(o.width**-0.5), (2, o.width))
        shift, scale = (table[i][None] + e for i in range(2))
        y = modulate(LayerNorm()(tokens), shift.astype(dtype), scale.astype(dtype))
        if not o.stem:
            return unpatchify(nn.Dense(o.patch**2 * o.shape[-1], name="out")(y.astype(jnp.float32)), o.grid, o.patch)
        patch = o.patch // o.fold
        skip = 1.0 + nn.Dense(o.stem, kernel_init=nn.initializers.zeros, name="skip")(nn.silu(e))
        y = unpatchify(nn.Dense(patch**2 * o.stem, dtype=dtype, name="pixels")(y), o.grid, patch)
        y = y + stem * skip[:, None, None, :].astype(dtype)
        for name in ("head_in", "head_middle"):
            y = y + conv3x3(o, o.stem, name, dtype)(nn.silu(y))
        return depth_to_space(conv3x3(o, o.fold**2 * o.shape[-1], "head_out", jnp.float32)(nn.silu(y).astype(jnp.float32)), o.fold)


def conv3x3(o, features, name, dtype):
    """XLA's own convolution: on CPU its gradient takes half the time of products. Not so under a `lax.cond`, where it takes many times
    as long as theirs (jax 0.10.2)."""
    return nn.Conv(features, (3, 3), dtype=dtype, conv_general_dilated=product if o.products else None, name=name)


def product(x, kernel, strides=(1, 1), padding="SAME", **_):
    """A 3x3 convolution as one product of every place's neighbours."""
    assert kernel.shape[:2] == (3, 3) and tuple(strides) == (1, 1) and padding == "SAME"
    return jnp.concatenate(shifts(x), axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def block_table(key, shape):
    """Shift and scale near zero, gates near one: every block speaks from the first step."""
    gates = jnp.array([0.0, 0.0, 1.0, 0.0, 0.0, 1.0])[:, None]
    return gates + 0.02 * jax.random.normal(key, shape)


def space_to_depth(x, fold):
    """[B, H, W, C] -> [B, H / f, W / f, f^2 C]."""
    b, h, w, _ = x.shape
    return patchify(x, fold).reshape(b, h // fold, w // fold, -1)


def depth_to_space(x, fold):
    """The inverse of `space_to_depth`."""
    b, h, w, c = x.shape
    return unpatchify(x.reshape(b, h * w, c), (h, w), fold)


def patchify(x, patch):
    """[B, H, W, C] -> [B, H W / p^2, p^2 C], row-major."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, (h // patch) * (w // patch), patch * patch * c)


def unpatchify(x, grid, patch):
    """The inverse of `patchify` for a token grid (rows, columns)."""
    b, _, d = x.shape
    x = x.reshape(b, *grid, patch, patch, d // patch**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, grid[0] * patch, grid[1] * patch, d // patch**2)


def build(
    options: Options, text_width: int, path: Path = LINEAR, ends="map", gap=0.0, shift=0.0, scale=1.0, constrain=lambda x: x
) -> Model:
    """A Model on `path`. `constrain` pins the tokens' sharding between blocks (the identity without a mesh)."""
    o = options

    def sized(x):
        """The modules for a sample of this height and width."""
        here = o._replace(shape=x.shape[1:])
        return Embed(here), Block(here), Head(here)

    def init(key):
        k_embed, k_block, k_head = jax.random.split(key, 3)
        x, t = jnp.zeros((1, *o.shape)), jnp.zeros((1,))
        text = jnp.zeros((1, 1, text_width))
        embed_net, block, head_net = sized(x)
        (tokens, side), variables = embed_net.init_with_output(k_embed, x, t, t, text, t if o.guidance else None)

        def layer(k):
            return block.init(k, tokens, side["modulation"], side["text"], jnp.ones((1, 1), bool))["params"]

        return {
            "embed": variables["params"],
            "blocks": jax.vmap(layer)(jax.random.split(k_block, o.depth)),
            "head": head_net.init(k_head, tokens, side["e"], side["stem"])["params"],
        }

    def embed(params, x, t, s, cond):
        unit = 1.0 / path.t_noise  # the network's own clock runs over [0, 1] on every path
        said = cond["guidance"] if o.guidance else None
        tokens, side = sized(x)[0].apply({"params": params["embed"]}, x, t * unit, s * unit, cond["features"], said)
        control = {"control": jnp.moveaxis(cond["control"], 0, 1)} if "control" in cond else {}  # rows first, as all of h
        return {"tokens": constrain(tokens), "mask": cond["mask"], "x": x, "t": t, **side, **control}

    def blocks(params, h, lo, hi, capture=None):
        _, block, _ = sized(h["x"])
        layers = {"params": params["blocks"]}
        if "control" in h:  # nothing after block 0 and after those that the ControlNet does not reach
            control = jnp.moveaxis(h["control"], 1, 0)
            layers["control"] = jnp.pad(control, ((1, max(o.depth - 1 - len(control), 0)), *[(0, 0)] * 3))[: o.depth]

        def one(tokens, layer, captured=None):
            tokens, maps = block.apply({"params": layer["params"]}, tokens, h["modulation"], h["text"], h["mask"], captured)
            return constrain(tokens + layer["control"].astype(tokens.dtype) if "control" in layer else tokens), maps

        def of(i):
            return jax.tree.map(lambda p: p[i], layers)

        def run(tokens, start, stop):
            if start == stop:
                return tokens
            step = jax.checkpoint(one) if o.remat else one
            if o.scan:
                return jax.lax.scan(lambda c, layer: (step(c, layer)[0], None), tokens, of(slice(start, stop)))[0]
            for i in range(start, stop):
                tokens, _ = step(tokens, of(i))
            return tokens

        if capture and (len(set(capture.layers)) < len(capture.layers) or not set(capture.layers) <= set(range(o.depth))):
            raise ValueError(f"capture: layers {capture.layers}, allowed are different ones of 0 to {o.depth - 1}")
        tokens, maps, start = h["tokens"], [], lo
        for layer in sorted(capture.layers) if capture else ():
            if lo <= layer < hi:
                tokens = run(tokens, start, layer)
                tokens, found = one(tokens, of(layer), capture.tokens)
                maps, start = [*maps, found], layer + 1
        tokens = run(tokens, start, hi)
        return {**h, "tokens": tokens}, ({"maps": jnp.stack(maps)} if maps else {})

    def head(params, h):
        answer = sized(h["x"])[2].apply({"params": params["head"]}, h["tokens"], h["e"], h["stem"]).astype(jnp.float32)
        return answer if o.predicts == "v" else velocity_of_data(path, h["x"], answer, h["t"])

    told = TOLD if o.guidance else 0.0
    return compose(Model(path, ends, o.shape, init, None, embed, blocks, head, o.depth, None, gap, told, shift, scale, o.depth))


def velocity_of_data(path, x, x0, t):
    """The velocity at x_t whose data end is x0: v = (sigma' x_t - d x0) / sigma, (x_t - x0) / t on the linear path; sigma held at or
    above SIGMA_MIN."""
    alpha, sigma, d_alpha, d_sigma = (expand(c, x) for c in coefficients(path, t))
    return (d_sigma * x - (alpha * d_sigma - d_alpha * sigma) * x0) / jnp.maximum(sigma, SIGMA_MIN)
