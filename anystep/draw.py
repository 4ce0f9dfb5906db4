"""The one compiled function that draws, and what guidance may act on."""

import functools

import jax
import jax.numpy as jnp

from anystep import tree
from anystep.arrays import channels
from anystep.errors import UserError
from anystep.guide import classifier_free
from anystep.path import from_flow_time
from anystep.sampling import asked_by, make, on_whole_steps, sample, started_from, whole_step
from anystep.steering.at import Walk
from anystep.steering.program import Recorder
from anystep.types import Drawing


def guidance(drawing: Drawing, scale, sampler, ask) -> tuple[float, str]:
    """(guidance scale, which answers hold it already: "", "jumps" or "all"), `scale` None for the model's own.

    Of a network that has learned jumps to the data alone nothing else is asked, and as velocities they make no solver of second order: a
    UserError for another question or sampler. A network that is told the scale holds it in all of them. A hybrid may have learned its
    jumps to s = 0 under guidance: there nothing is extrapolated a second time. Where only such jumps are asked, the scale is that of the
    training, and a UserError tells whoever wants another.
    """
    if drawing.jumps_only:
        why = "because this model answers with jumps to the data"
        if sampler in ("heun", "dpm"):
            raise UserError(f"sampler {sampler!r}: allowed restart, ddim, ddim_ratio or euler, {why}")
        if ask != drawing.ask:
            raise UserError(f"ask {ask!r}: allowed {drawing.ask!r}, {why}")
    wanted = number("guide", drawing.scale if scale is None else scale)
    if drawing.told:
        return wanted, "all"
    if wanted < drawing.least:
        raise UserError(f"guidance scale {wanted:g}: allowed from {drawing.least:g}, which is none, for pipelines of others")
    if drawing.learned == 1.0:
        return extrapolated(drawing, wanted), ""
    if drawing.jumps_only and scale is None:
        return drawing.learned, "all"
    by_way_of_data = sampler not in ("euler", "heun", "dpm") and drawing.jumps_anywhere  # there a flow map is always asked for s = 0
    if not drawing.jumps_only and (sampler in ("heun", "dpm") or (ask != "zero" and not by_way_of_data)):
        return extrapolated(drawing, wanted), "jumps"
    if scale is not None:
        raise UserError(
            f"guidance scale {scale}: cannot act, because all that sampler {sampler!r} asks of this model was trained under guidance "
            f"{drawing.learned:g}" + ("" if drawing.jumps_only else "; with sampler 'euler' and ask 'now' the scale is free")
        )
    return drawing.learned, "all"


def extrapolated(drawing, scale):
    if scale != 1.0 and not drawing.unprompted:
        raise UserError(f"guidance scale {scale:g}: allowed 1, because this model never learned without a prompt (prompt_dropout was 0)")
    return scale


def number(name, value):
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"{name}: {value!r}, allowed a number, a function or None") from None


def draw(
    net, text, params, tokens, null, keys, flow_times, scale, interval, ends, eta,
    sampler, ask, energy_preserving, jumps, guide, steer, guided, told, whole, shape, noise,
    steer_told=None, data=None, picture=None, control_scale=1.0,
):  # fmt: skip
    """(x at the door, what the sampler says of its steps). steer: Sampler -> Sampler, or what takes (sampler, Walk, steer_told)."""
    rows, seen = keys.shape[0], {}
    if picture is not None:
        seen = {"picture": picture, "control_scale": jnp.asarray(control_scale, jnp.float32)}
    cond = text.encode(params["text"], tokens) | seen
    if told:
        cond = cond | {"guidance": jnp.full(rows, told * scale, jnp.float32)}

    def velocity_under(c):
        return lambda x, t, s: net.velocity(params["net"], x, t, s, c)

    known = guide is None  # what another guide asks is its own affair
    if known and guided:
        none = jax.tree.map(lambda a: jnp.broadcast_to(a, (rows, *a.shape[1:])), text.encode(params["text"], null)) | seen
        low, high = (from_flow_time(net.path, jnp.float32(t)) for t in interval)
        guide = classifier_free(velocity_under(none), scale, energy_preserving, (low, high), jumps)

    def around(velocity):
        velocity = velocity if guide is None else guide(velocity)
        return on_whole_steps(velocity, whole) if whole else velocity

    walker = make(sampler, around(velocity_under(cond)), net, ask, eta)
    walker = walker if data is None else started_from(walker, net.path, data)
    if steer_told is not None:
        clock = functools.partial(whole_step, whole) if whole else lambda t: t
        walk = Walk(net, params["net"], cond, asked_by(sampler, net, ask), clock, around, known, ends[0], len(flow_times) - 1)
        walker = steer(walker, walk, steer_told)
    elif steer is not None:
        walker = steer(walker)
    pairs = jax.vmap(jax.random.split)(keys)
    noise = tree.normal(pairs[:, 0], shape) if noise is None else noise
    said_of = steer.first if isinstance(steer, Recorder) else None
    x, info = sample(walker, pairs[:, 1], ends[0] * noise, from_flow_time(net.path, flow_times), said_of)
    return ends[1] * x * channels(net.scale, x) + channels(net.shift, x), info
