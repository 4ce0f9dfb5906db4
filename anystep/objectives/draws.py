"""What every objective draws first: a time, a noise, the point x_t and its velocity, each from its own named key and the sample's stream
position."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from anystep import times, tree
from anystep.path import LINEAR, from_flow_time, interpolate, velocity


class Point(NamedTuple):
    t: Array  # [B] in the path's time
    noise: Array
    x_t: Array
    v: Array  # conditional velocity


def draw_point(name, path, law, batch, key, step) -> Point:
    """A point on the path of every sample of the batch; `name` keeps the draws of different objectives apart."""
    index, x0 = batch["index"], batch["x0"]
    t = from_flow_time(path, times.draw_t(law, tree.sample_keys(key, f"{name}/t", step, index)))
    noise = tree.normal(tree.sample_keys(key, f"{name}/noise", step, index), x0.shape[1:])
    return Point(t, noise, interpolate(path, x0, noise, t), velocity(path, x0, noise, t))


def moved_to_noise(name, point: Point, share, batch, key, step) -> Point:
    """The point of the linear path with a `share` of the rows (a number or traced) at t = 1 exactly: where one step starts, and where no
    continuous law puts a row."""
    chance = tree.uniform(tree.sample_keys(key, f"{name}/at_noise", step, batch["index"]))
    t = jnp.where(chance < share, 1.0, point.t)
    return point._replace(t=t, x_t=interpolate(LINEAR, batch["x0"], point.noise, t))
