"""What a walk is asked to be, before it is made: how large a picture, over which times, from where.

From a picture, the flow times are those of a walk from noise times `strength`: as many steps, from (1 - t) picture + t noise at
t = strength, or at that share of the first time where the usual grid begins below 1. The picture is encoded where there is an autoencoder;
the noise is that of the same seed and row without a picture. diffusers' `strength` is another: the first 1 - strength of the steps are
dropped, so that of 10 at 0.6 the last 6 are left, and they begin at whatever level the usual grid has there.
"""

import numbers

import jax.numpy as jnp
import numpy as np

from anystep.errors import UserError
from anystep.path import TRIG, to_flow_time
from anystep.times import PUBLISHED, scm_angles


def shape_of(model, size):
    """Shape of one sample of the network, for a picture of `size` = (height, width) pixels, None for the model's own."""
    if size is None:
        return tuple(model.net.shape)
    factor, patch = model.codec.factor if model.codec else 1, model.drawing.patch
    if len(size) != 2 or not all(isinstance(n, int) and n >= patch and n % patch == 0 for n in size):
        raise UserError(f"size: {'x'.join(map(str, size))}, allowed are two multiples of {patch}, height and width")
    return (*(n // factor for n in size), model.net.shape[-1])


def picture_of(model, shape):
    """[H, W, C] of what a sample of `shape` looks like at the door."""
    return (*(n * model.codec.factor for n in shape[:2]), 3) if model.codec else shape


def tokens_of(model, shape):
    height, width, _ = picture_of(model, shape)
    return height // model.drawing.patch * (width // model.drawing.patch)


def times_of(drawing, steps, tokens, times=None):
    """[N + 1] flow times: a model's own for so many steps, a list, or one of times.PUBLISHED by its name. UserError for what does not
    decrease between 1 and 0, and for a name or a number of steps that is not there."""
    if (times is None or isinstance(times, str)) and not 1 <= steps <= 1000:
        raise UserError(f"steps: {steps}, allowed 1 to 1000")
    if times is None:
        return drawing.times(steps, tokens)
    if isinstance(times, str):
        if times not in PUBLISHED:
            raise UserError(f"times: {times!r}, allowed {', '.join(PUBLISHED)}, or flow times")
        known = PUBLISHED[times]
        if known and steps not in known:
            raise UserError(f"times: {times!r} has no list for {steps} steps, but for {', '.join(map(str, known))}")
        angles = known[steps] if known else scm_angles(steps)
        return np.minimum(np.asarray(to_flow_time(TRIG, np.float32(angles))), np.float32(1.0))
    try:
        found = np.asarray(times, np.float32)
    except (TypeError, ValueError):
        found = np.zeros(0)
    if found.ndim != 1 or len(found) < 2 or not ((np.diff(found) < 0).all() and found[0] <= 1 and found[-1] >= 0):
        raise UserError(f"times: {times!r}, allowed are two or more that decrease, flow times between 1 and 0")
    return found


def start_of(model, params, image, strength, rows, shape, flow_times):
    """(`data_of` the picture or None, flow times [N + 1], factors of noise and of the result) of a walk from `image`, None for noise alone,
    that would from noise go over `flow_times`. At strength 1 nothing is left of the picture. UserError for a strength outside (0, 1]."""
    if not (isinstance(strength, numbers.Real) and 0 < strength <= 1):
        raise UserError(f"strength: {strength!r}, allowed is a number above 0, up to 1")
    data = None if image is None else data_of(model, params, image, rows, shape)
    if data is None or strength == 1:
        return None, flow_times, model.drawing.ends(flow_times)
    flow_times = jnp.float32(strength) * jnp.asarray(flow_times, jnp.float32)
    return data, flow_times, (1.0, model.drawing.ends(flow_times)[1])  # noise in its share: a start at unit variance is for noise alone


def data_of(model, params, image, rows, shape):
    """[rows, *shape] float32 of unit deviation, as the network knows data: `image`, one [H, W, C] for all rows or [rows, H, W, C], uint8 or
    floats at the door, encoded one at a time. UserError for what is neither."""
    image, wanted = np.asarray(image), tuple(picture_of(model, shape))
    if image.shape not in (wanted, (rows, *wanted)):
        raise UserError(f"image: shape {list(image.shape)}, allowed is {list(wanted)} or {[rows, *wanted]}; size says another")
    if image.dtype != np.uint8 and not (np.issubdtype(image.dtype, np.floating) and np.isfinite(image).all()):
        raise UserError(f"image: {image.dtype}, allowed is uint8, or finite floats in [-1, 1]")
    x = image.astype(np.float32).reshape(-1, *wanted)
    x = x / np.float32(127.5) - 1 if image.dtype == np.uint8 else x
    if model.codec:
        x = np.stack([np.asarray(model.encode(params["codec"], one[None]))[0] for one in x])
    unit = (x - np.float32(model.net.shift)) / np.float32(model.net.scale)
    return np.broadcast_to(unit, (rows, *shape))
