"""What the tests of steering share: a small network that is captured from, and a reader of its maps."""

import jax
import tiny
import toys

from anystep import api
from anystep.nets import correction, relation
from anystep.steering import classifier, maps


def model_in(folder, *more):
    found = api.pipeline(tiny.config("shapes", folder, *more))
    return found, {role: toys.random_params(getattr(found, role)) for role in ("net", "text")}


def reader_of(found, layers=(0,), corrects=False):
    lens = maps.Lens(layers, side=4)
    options = relation.Light(maps.channels_of(found, lens), side=4, channels=2, width=8)
    made = classifier.Reader(lens, options, correction.Options((16, 16, 3), 16, 4, 16, 1, 2) if corrects else None)
    params = made.init(jax.random.key(5))
    if corrects:
        params["correction"] = toys.random_params(correction.build(made.corrects))
    return made, params
