"""What Python users call: `load` a trained model, `sample` pictures from it. The mains and the notebook draw through these two and
nothing else."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anystep import tree
from anystep.arrays import in_units
from anystep.control import check_given
from anystep.draw import guidance, number
from anystep.errors import UserError
from anystep.flags import ASKS, SAMPLERS
from anystep.models import Pipeline, assemble, drawing_of, load, pipeline
from anystep.steering.program import Steering
from anystep.steering.prompts import Understood, not_steered
from anystep.subjects import to_uint8
from anystep.walks import picture_of, shape_of, start_of, times_of, tokens_of

__all__ = ["Pipeline", "assemble", "drawing_of", "guidance", "load", "notes", "picture_of", "pipeline", "sample", "sample_and_say"]
__all__ += ["sample_array", "shape_of", "tokens_of", "walking"]


def sample(model: Pipeline, params, prompts, steps=4, seed=0, guide=None, steer=None, **how) -> np.ndarray:
    """Pictures uint8 [N, H, W, 3] of a list of prompts.

    steps: evaluations of the sampler, 1 and up. guide: a guidance scale, or a function Velocity -> Velocity, or None for the model's own
    scale. steer: what `anystep.steering.load` gives, or a function Sampler -> Sampler. `how`, where the model should not decide: sampler
    "euler" | "heun" | "dpm" | "restart" | "ddim" | "ddim_ratio"; ask "next" | "now" | "zero" | "half"; eta, the part of the noise that ddim
    draws afresh; times, decreasing flow times [N + 1] instead of `steps`, or the name of a published list for `steps` (`times.PUBLISHED`);
    size, (height, width) in pixels; first, the number of the first row: row i's noise depends on (seed, first + i) alone, not on steps or
    the other prompts; noise [N, ...] to start from instead; image, uint8 [N, H, W, 3] or one for all prompts, and strength in (0, 1], how
    far it is noised before the walk begins there (see `walks`; 1 leaves nothing of it). For a model with a ControlNet: control, pictures
    uint8 [N, H, W, 3] of what is wanted or one for all prompts (edges: `anystep.control.edges`), and control_scale of its residuals;
    without a picture it draws as its trunk. Raises UserError for a bad prompt, size, picture, strength or time, for a picture that cannot
    be followed, for a scale that could not act and for what a model of jumps alone cannot be asked (see `guidance`).
    """
    return to_uint8(sample_array(model, params, prompts, steps, seed, guide, steer, **how))


def sample_array(model, params, prompts, steps=4, seed=0, guide=None, steer=None, **how) -> np.ndarray:
    """As `sample`, but float32 at the door ([-1, 1] for pictures, points for a mixture), not clipped."""
    return sample_and_say(model, params, prompts, steps, seed, guide, steer, **how)[0]


def sample_and_say(model, params, prompts, steps=4, seed=0, guide=None, steer=None, first=0, **how) -> tuple[np.ndarray, Any]:
    """(what `sample_array` gives, what a Steering says: its arrays [steps, N, ...], {} where it had nothing to do)."""
    of_all, of_rows = checked(model, params, prompts, steps, guide, steer, **how)
    key, batch = tree.fold(jax.random.key(seed), "sample"), model.drawing.batch
    understood = steer.understand(model.text, prompts) if isinstance(steer, Steering) else []
    most = max((len(one.relations) for one in understood), default=0)
    if isinstance(steer, Steering) and not most:
        steer = None  # nothing is asked for: the sampler as it is
    of_all |= {"null": model.text.tokenize([""]), "steer": steer.program if most else steer}
    out, infos = [], []
    for row in range(0, len(prompts), batch):
        some, rows = list(prompts[row : row + batch]), min(batch, len(prompts))
        tokens = model.text.tokenize(some + [""] * (rows - len(some)))
        told = steer_told(model, params, steer, understood[row : row + batch], tokens, rows, most) if most else None
        keys = tree.sample_keys(key, "noise", 0, first + row + jnp.arange(rows))
        own = {name: None if a is None else jnp.asarray(filled(a[row : row + batch], rows)) for name, a in of_rows.items()}
        x, info = model.draw(tokens=tokens, keys=keys, steer_told=told, **of_all, **own)
        if told:
            infos.append(jax.tree.map(lambda a, kept=slice(len(some)): np.asarray(a)[:, kept], info))  # noqa: B008
        if model.codec is None:
            out.append(np.asarray(x)[: len(some)])
        else:  # one picture at a time: a decoder's finest level takes more memory than the network
            out += [np.asarray(model.decode(params["codec"], x[i : i + 1])) for i in range(len(some))]
    x = np.concatenate(out) if out else np.zeros((0, *picture_of(model, of_all["shape"])), np.float32)
    return x, jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *infos) if infos else {}


def checked(
    model, params, prompts, steps, guide, steer,
    sampler=None, ask=None, eta=None, times=None, size=None, noise=None, image=None, strength=0.6, control=None, control_scale=1.0,
) -> tuple[dict, dict]:  # fmt: skip
    """What `model.draw` is told, by name: of all rows, and of each prompt's [N, ...] or None. UserError for what cannot be asked."""
    if isinstance(prompts, str):
        raise UserError("prompts: a list of texts is expected, got one text")
    for name, word, known in (("sampler", sampler, SAMPLERS), ("ask", ask, ASKS)):
        if word not in (None, *known):
            raise UserError(f"{name}: {word!r}, allowed {', '.join(known)}")
    if steer is not None and not isinstance(steer, Steering) and not callable(steer):
        raise UserError(f"steer: {steer!r}, allowed what anystep.steering.load(FOLDER, model) gives, a function Sampler -> Sampler or None")
    if image is not None and isinstance(steer, Steering):
        raise UserError("image: is for drawing without steer, which expects to begin with noise alone")
    d, shape = model.drawing, shape_of(model, size)
    if noise is not None and np.shape(noise) != (len(prompts), *shape):
        raise UserError(f"noise: shape {np.shape(noise)}, allowed is {(len(prompts), *shape)}")
    sampler, ask = sampler or d.sampler, ask or d.ask
    scale, inside = guidance(d, None if callable(guide) else guide, sampler, ask)
    picture = None if control is None else control_in_units(model, params, control, len(prompts), picture_of(model, shape))
    flow_times = times_of(d, steps, tokens_of(model, shape), times)
    data, flow_times, ends = start_of(model, params, image, strength, len(prompts), shape, flow_times)
    of_all = {
        "params": {role: params[role] for role in ("net", "text")},
        "flow_times": flow_times,
        "scale": scale,
        "interval": d.interval,
        "ends": ends,
        "eta": number("eta", d.eta if eta is None else eta),
        "sampler": sampler,
        "ask": ask,
        "energy_preserving": d.energy_preserving,
        "jumps": not inside,
        "guide": guide if callable(guide) else None,
        "guided": scale != 1.0 and inside != "all",
        "told": d.told,
        "whole": d.whole,
        "shape": shape,
        "control_scale": number("control_scale", control_scale),
    }
    return of_all, {"noise": None if noise is None else np.asarray(noise, np.float32), "data": data, "picture": picture}


def steer_told(model, params, steer, understood, tokens, rows, most):
    """What a Steering's program is told of a batch of `rows`, of which `understood` has the first."""
    length = jax.eval_shape(encoder(model.text.encode), params["text"], tokens)["features"].shape[1]
    nothing = [Understood("", (), (), ())] * (rows - len(understood))
    return steer.told(understood + nothing, length, most)


def walking(model: Pipeline, sampler=None, ask=None, scale=None) -> Pipeline:
    """`model` with another walk of its own. UserError as `guidance` says."""
    d = model.drawing
    sampler, ask = sampler or d.sampler, ask or d.ask
    guidance(d, scale, sampler, ask)
    return model._replace(drawing=d._replace(sampler=sampler, ask=ask, scale=d.scale if scale is None else scale))


def control_in_units(model, params, control, rows, shape) -> np.ndarray:
    """What `sample` takes as control, of drawn pictures of `shape` (H, W, 3), as a ControlNet sees it: [rows, h, w, C] float32 in the
    network's units, latents where it draws latents. UserError for a model that follows no picture."""
    if not model.net.controls:
        raise UserError("control: a picture to follow was given, but the model has no ControlNet")
    x = check_given(control, rows, shape)
    if model.codec is not None:  # one at a time, as they are decoded
        x = np.concatenate([model.encode(params["codec"], x[i : i + 1]) for i in range(len(x))])
    x = np.asarray(in_units(model.net, x))
    return np.broadcast_to(x, (rows, *x.shape[1:]))


@functools.lru_cache(8)
def encoder(encode):
    """A text encoder whose traces are kept."""
    return jax.jit(encode)


def notes(model: Pipeline, prompts, steer, steps=4, times=None, size=None, sampler=None, ask=None, eta=None) -> list[str]:
    """Lines on what a Steering will not do for these prompts at so many steps: relations that are not understood, walks unlike those that
    its classifier learned from, other weights of the network. [] for any other `steer`."""
    if not isinstance(steer, Steering):
        return []
    times = times_of(model.drawing, steps, tokens_of(model, shape_of(model, size)), times)
    d = model.drawing
    strange = steer.strange(times, sampler or d.sampler, ask or d.ask, d.eta if eta is None else eta)
    return [*steer.notes, *strange, *not_steered(steer.understand(model.text, prompts))]


def filled(rows, count):
    """`rows` and copies of the last one: one compilation for a batch that is not full."""
    return np.concatenate([rows, np.repeat(rows[-1:], count - len(rows), axis=0)])
