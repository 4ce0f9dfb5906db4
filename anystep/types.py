"""The contracts of the house: what a network, an objective, a sampler and a batch look like to everybody else.

Letters: `x0` data, `noise`, `x_t`, `t` start, `s` asked end, `v` instantaneous velocity, `u` what the model answers, `c` condition.
Times are [B] float32 in the path's own domain (flow time: 1 noise, 0 data). Data is NHWC float32; at the door it lies in [-1, 1], inside
a Model it has unit standard deviation: `(x - shift) / scale` with the two numbers that the Model carries.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jax import Array

Params = Any  # a tree of arrays
Key = Array  # a typed PRNG key
Step = Array  # int32 scalar
Aux = Any  # what a network hands out besides its answer: {} or {"maps": ...}
Metrics = dict[str, Array]  # per sample [B] or scalar; only `mix` averages
Buffers = dict[str, Any]  # by role: state that moves without a gradient
Batch = dict[str, Any]
"""{"x0": [B, H, W, C], "index": [B] int32 position in the stream, "cond": {...}}.

As the data gives it, `cond` is {"tokens": ...} (or {} for a network without prompts) and x0 is at the door. As an objective sees it, x0
has unit standard deviation and the prompts are encoded, by the text role, into features and mask: `cond` (live weights, differentiable),
`null` (the null prompt, live weights, no gradient), `ema_cond` and `ema_null` (EMA weights), and `dropped` [B] bool says which rows had
their prompt replaced by the null one. Self-E's late stage also wants `fake`: tokens of the prompts behind two words, encoded where
they are used, which is late and on few rows. Beside a teacher there are `teacher_cond`, `teacher_null` and `scale` [B], the guidance that
the teacher is asked under; networks that are told a scale find it as "guidance" among their own features and mask. For a network that
follows pictures every one of these prompts has the row's "picture", the edges of x0 in its units.
"""


class Capture(NamedTuple):
    """Which cross-attention maps to return: [layers, B, heads, objects, image tokens], the text axis contracted with `tokens` [B,
    objects, text]."""

    layers: tuple[int, ...]
    tokens: Array


class Path(NamedTuple):
    """x_t = alpha(t) x0 + sigma(t) noise on t in [t_data, t_noise]. The three paths of the house are built in `path`."""

    name: str
    alpha: Callable[[Array], Array]
    sigma: Callable[[Array], Array]
    t_noise: float
    t_data: float = 0.0


class Model(NamedTuple):
    """All that a loss, a sampler or a steerer may know of a network; built in `nets/`, one per checkpoint."""

    path: Path  # whose time the caller speaks
    ends: str  # what asking for s < t means: "none" | "renoise" (Self-E) | "map" (MeanFlow) | "hybrid" (map at s = 0, else above the gap)
    shape: tuple[int, ...]  # of one sample, without the batch
    init: Callable[[Key], Params]
    velocity: Callable[..., tuple[Array, Aux]]  # (params, x, t, s, cond, capture=None) -> (u, aux)
    embed: Callable[..., Any]  # (params, x, t, s, cond) -> h          velocity == head(blocks(embed)), bit-equal
    blocks: Callable[..., tuple[Any, Aux]]  # (params, h, lo, hi, capture=None) -> (h, aux)
    head: Callable[..., Array]  # (params, h) -> u
    depth: int = 0  # number of blocks
    features: Callable[..., Array] | None = None  # (params, x, t) -> [B, F]
    gap: float = 0.0  # nobody asks for 0 < s < gap t
    told: float = 0.0  # not 0: it reads told * guidance scale, [B], from cond["guidance"], and its answers are guided already
    shift: float | tuple[float, ...] = 0.0  # unit = (door - shift) / scale
    scale: float | tuple[float, ...] = 1.0
    maps: int = 0  # number of cross-attention layers that a Capture may name
    controls: bool = False  # it follows cond["picture"] [B, H, W, C] in its units, where there is one, by cond["control_scale"], 1 or [B]


class Text(NamedTuple):
    """A prompt encoder as a role: strings -> tokens on the host, tokens -> features and mask on the device."""

    init: Callable[[Key], Params]
    tokenize: Callable[[list[str]], Any]  # -> int32 array of numpy, or a dict of arrays, first axis the prompts; "" is the null prompt
    encode: Callable[[Params, Any], dict[str, Array]]  # -> {"features": [B, L, D], "mask": [B, L] bool}, some "pooled": [B, P]
    prepend: Callable[[str, Array], Array]  # (words, tokens) -> tokens of the words and then the prompt, as `tokenize` would give them
    place: Callable[[str, tuple[int, int]], list[int]] | None = (
        None  # (prompt, characters [first, last)) -> rows of its features; [] if cut off
    )


class Codec(NamedTuple):
    """An autoencoder: pictures [B, H, W, 3] in [-1, 1] <-> latents [B, H / factor, W / factor, channels] float32 as the diffusion model
    wants them, (latent - shift) * scale of the autoencoder's own. Deterministic: a distribution's mean."""

    init: Callable[[Key], Params]
    encode: Callable[[Params, Array], Array]  # (params, x) -> z
    decode: Callable[[Params, Array], Array]  # (params, z) -> x, not clipped
    factor: int  # pixels a side of one latent position
    channels: int  # of a latent
    scale: float = 1.0
    shift: float = 0.0
    moments: Callable[[Params, Array], tuple[Array, Array]] | None = None  # (params, x) -> (mean, std) of z, where z is drawn


Velocity = Callable[[Array, Array, Array], tuple[Array, Aux]]  # (x, t, s) -> (u, aux); params and cond closed over


class Roles(NamedTuple):
    """Every weight a step can see, by role: net, text, discriminator, weighting, teacher, ..."""

    params: Mapping[str, Params]
    ema: Mapping[str, Params]
    frozen: Mapping[str, Params]
    buffers: Buffers


Objective = Callable[[Mapping[str, Any], Roles, Batch, Key, Step], tuple[Array, Metrics, Buffers]]  # loss per sample [B]


class SamplerState(NamedTuple):
    x: Array
    key: Key
    inner: Any = ()


class Sampler(NamedTuple):
    """`init(key, noise, t) -> state`; `step(state, (t, t_next), first=None) -> (state, info)`, first = (u, aux) already known at
    state.x."""

    init: Callable[..., SamplerState]
    step: Callable[..., tuple[SamplerState, Any]]


class Drawing(NamedTuple):
    """How a model is drawn where its user does not say otherwise."""

    times: Callable[[int, int], Array]  # (steps, tokens of a picture) -> flow times [steps + 1], from 1 to 0
    patch: int  # pixels a side of one token
    steps: tuple[int, ...]  # counts worth looking at
    sampler: str
    ask: str
    scale: float = 1.0  # of guidance
    told: float = 0.0  # not 0: the network reads told * scale from cond["guidance"], and nothing is extrapolated
    least: float = 0.0  # scale that may be asked for; 0 is the null prompt alone
    energy_preserving: bool = False
    interval: tuple[float, float] = (0.0, 1.0)  # flow times between which guidance acts
    eta: float = 1.0
    learned: float = 1.0  # guidance that jumps were trained under
    jumps_anywhere: bool = False  # not to s = 0 alone
    jumps_only: bool = False  # every answer that was trained is a jump to 0
    unprompted: bool = True  # the null prompt was learned, too, from which guidance extrapolates
    batch: int = 64  # prompts at once: one compilation a step count, whatever the number of prompts
    ends: Callable[[Array], tuple[float, float]] = lambda times: (1.0, 1.0)  # of a grid: factors of the unit noise and of the result
    whole: int = 0  # N: the network is told floor(N t) / N


class TrainState(NamedTuple):
    """Arrays only; models, optimizers and config are closed over."""

    step: Array
    params: dict[str, Params]
    opt: dict[str, Any]
    ema: dict[str, dict[str, Params]]  # ema[name][role]
    buffers: Buffers
    guard: Any  # spikes.Window
