"""What Python users call: `load` a trained model, `sample` pictures from it. The mains and the notebook draw through these two and
nothing else."""

import functools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from anystep import checkpoint, tree, weights
from anystep.arrays import channels
from anystep.config import from_dict
from anystep.errors import UserError
from anystep.flags import ASKS, SAMPLERS
from anystep.guide import classifier_free
from anystep.nets.build import build_models, image_tokens
from anystep.path import from_flow_time
from anystep.sampling import make
from anystep.sampling import sample as run
from anystep.state import EMA
from anystep.subjects import to_uint8
from anystep.times import grid, time_law
from anystep.types import Model, Text

BATCH = 64  # prompts drawn at once: one compilation a step count, whatever the number of prompts


class Pipeline(NamedTuple):
    """A network, its prompt encoder and the config both were built from. `draw` is compiled once for each number of steps."""

    net: Model
    text: Text
    config: Any  # ConfigDict
    draw: Callable


def pipeline(config) -> Pipeline:
    """A Pipeline of a checked config, without weights."""
    models = build_models(config)
    draw = jax.jit(
        functools.partial(_draw, models), static_argnames=("sampler", "ask", "energy_preserving", "jumps", "guide", "steer", "guided")
    )
    return Pipeline(models["net"], models["text"], config, draw)


def load(name, step=None) -> tuple[Pipeline, dict]:
    """(model, params) of a model FOLDER (config.json + weights.safetensors) or of a work directory (the averaged weights of its newest
    checkpoint, or of the one at `step`).

    Raises UserError if there is neither, or if the weights do not fit the config.
    """
    folder = folder_of(name)
    if (folder / weights.WEIGHTS).exists():
        if step is not None:
            raise UserError(f"model {str(name)!r}: a model folder has no step {step}; give the work directory")
        saved, params = weights.load_folder(folder)
        model = pipeline(from_dict(saved))
        return model, jax.device_put(weights.take(abstract_params(model), params))
    try:
        saved = json.loads((folder / weights.CONFIG).read_text())
    except ValueError as error:
        raise UserError(f"{folder / weights.CONFIG}: not JSON ({error})") from None
    model = pipeline(from_dict(saved))
    found, state, _ = checkpoint.restore(folder, {"ema": {EMA: abstract_params(model)}}, step=step, partial=True)
    if step not in (None, found):
        raise UserError(f"model {str(name)!r}: step {step} cannot be read, {found} can")
    return model, state["ema"][EMA]


def folder_of(name):
    """The folder of a model, or UserError."""
    folder = epath.Path(name)
    if not (folder / weights.CONFIG).exists():
        raise UserError(f"model {str(name)!r}: neither a model folder (config.json + weights.safetensors) nor a work directory")
    return folder


def abstract_params(model: Pipeline):
    """Shapes of {"net": ..., "text": ...}."""
    key = jax.random.key(0)
    return {role: jax.eval_shape(getattr(model, role).init, key) for role in ("net", "text")}


def sample(model: Pipeline, params, prompts, steps=4, seed=0, guide=None, steer=None, **how) -> np.ndarray:
    """Pictures uint8 [N, H, W, 3] of a list of prompts.

    steps: evaluations of the sampler, 1 and up. guide: a guidance scale, or a function Velocity -> Velocity, or None for the config's
    scale. steer: Sampler -> Sampler. `how`, where the config should not decide: sampler "euler" | "heun" | "restart" | "ddim" |
    "ddim_ratio"; ask "next" | "now" | "zero" | "half"; eta, the part of the noise that ddim draws afresh; times, a grid of flow times
    [N + 1] from 1 to 0 instead of `steps`; first, the number of the first row. Row i's noise depends on (seed, first + i) alone, not on
    steps or on the other prompts. Raises UserError for a bad prompt or number of steps and for a scale that could not act (`guidance`).
    """
    return to_uint8(sample_array(model, params, prompts, steps, seed, guide, steer, **how))


def sample_array(
    model, params, prompts, steps=4, seed=0, guide=None, steer=None, sampler=None, ask=None, eta=None, times=None, first=0
) -> np.ndarray:
    """As `sample`, but float32 at the door ([-1, 1] for pictures, points for a mixture), not clipped."""
    if isinstance(prompts, str):
        raise UserError("prompts: a list of texts is expected, got one text")
    if times is None and not 1 <= steps <= 1000:
        raise UserError(f"steps: {steps}, allowed 1 to 1000")
    for name, word, known in (("sampler", sampler, SAMPLERS), ("ask", ask, ASKS)):
        if word not in (None, *known):
            raise UserError(f"{name}: {word!r}, allowed {', '.join(known)}")
    e = model.config.eval
    sampler, ask = sampler or e.sampler, ask or e.ask
    scale, inside = guidance(model.config, None if callable(guide) else guide, sampler, ask)
    law = time_law(model.config.objective.time, image_tokens(model.config))
    flow_times = grid(steps, law.shift) if times is None else jnp.asarray(times, jnp.float32)
    key = tree.fold(jax.random.key(seed), "sample")
    null, out = model.text.tokenize([""]), []
    for begin in range(0, len(prompts), BATCH):
        some = list(prompts[begin : begin + BATCH])
        tokens = model.text.tokenize(some + [""] * (min(BATCH, max(len(prompts), 1)) - len(some)))
        x = model.draw(
            params,
            tokens,
            null,
            tree.sample_keys(key, "noise", 0, first + begin + jnp.arange(len(tokens))),
            flow_times,
            scale,
            tuple(float(t) for t in e.interval),
            number("eta", e.eta if eta is None else eta),
            sampler=sampler,
            ask=ask,
            energy_preserving=e.energy_preserving,
            jumps=not inside,
            guide=guide if callable(guide) else None,
            steer=steer,
            guided=scale != 1.0 and inside != "all",
        )
        out.append(np.asarray(x)[: len(some)])
    return np.concatenate(out) if out else np.zeros((0, *model.net.shape), np.float32)


def guidance(config, scale, sampler, ask) -> tuple[float, str]:
    """(guidance scale, which answers hold it already: "", "jumps" or "all"), `scale` None for the config's.

    A hybrid may have learned its jumps to s = 0 under guidance: there nothing is extrapolated a second time. Where only such jumps are
    asked, the scale is that of the training, and a UserError tells whoever wants another.
    """
    learned, settings = config.objective.consistency, config.eval
    if not (learned.share and learned.guidance != 1.0):
        return number("guide", settings.scale if scale is None else scale), ""
    by_way_of_data = sampler not in ("euler", "heun") and learned.at_zero < 1  # there a flow map is always asked for s = 0
    if sampler == "heun" or (ask != "zero" and not by_way_of_data):
        return number("guide", settings.scale if scale is None else scale), "jumps"
    if scale is not None:
        raise UserError(
            f"guidance scale {scale}: cannot act, because all that sampler {sampler!r} asks of this model was trained under guidance "
            f"{learned.guidance:g}; with sampler 'euler' and ask 'now' the scale is free"
        )
    return learned.guidance, "all"


def number(name, value):
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"{name}: {value!r}, allowed a number, a function or None") from None


def _draw(
    models, params, tokens, null, keys, flow_times, scale, interval, eta, sampler, ask, energy_preserving, jumps, guide, steer, guided
):
    net, text = models["net"], models["text"]
    cond = text.encode(params["text"], tokens)

    def velocity_under(c):
        return lambda x, t, s: net.velocity(params["net"], x, t, s, c)

    velocity = velocity_under(cond)
    if guide is not None:
        velocity = guide(velocity)
    elif guided:
        none = jax.tree.map(lambda a: jnp.broadcast_to(a, (tokens.shape[0], *a.shape[1:])), text.encode(params["text"], null))
        low, high = (from_flow_time(net.path, jnp.float32(t)) for t in interval)
        velocity = classifier_free(velocity_under(none), scale, energy_preserving, (low, high), jumps)(velocity)
    walker = make(sampler, velocity, net, ask, eta)
    if steer is not None:
        walker = steer(walker)
    pairs = jax.vmap(jax.random.split)(keys)
    noise = tree.normal(pairs[:, 0], net.shape)
    x, _ = run(walker, pairs[:, 1], noise, from_flow_time(net.path, flow_times))
    return x * channels(net.scale, x) + channels(net.shift, x)
