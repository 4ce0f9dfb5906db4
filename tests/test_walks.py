"""What a walk goes over: sizes, times, and where it starts from a picture, against the exact flow of Gaussian data."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import toys

from anystep import api, flags, times, walks
from anystep.errors import UserError
from anystep.nets.discrete import times_of
from anystep.path import TRIG, as_trig, to_flow_time
from anystep.types import Drawing, Text
from anystep.weights.schedulers import ends, of_scheduler

VARIANCE, SHIFT, SCALE = 0.3, 0.2, 0.5  # of the data as the network knows it; the door's
DDIM = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
FIXTURES = Path(__file__).parent / "fixtures"
ROWS, PICTURE = 20, np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)


def spread(t):
    """Standard deviation of x_t on the linear path, of data N(0, VARIANCE)."""
    return ((1 - t) ** 2 * VARIANCE + t**2) ** 0.5


def gaussian(path="linear", **drawing):
    """A Pipeline that knows the velocity of N(0, VARIANCE) exactly, in batches of 8; its door is elsewhere."""

    def velocity(params, x, t, s, cond):
        return x * ((t - (1 - t) * VARIANCE) / spread(t) ** 2)[:, None, None, None]

    net = toys.analytic(velocity, ends="none", shape=PICTURE.shape)
    net = (as_trig(net) if path == "trig" else net)._replace(shift=SHIFT, scale=SCALE)
    told = {"features": jnp.zeros((1, 1, 1)), "mask": jnp.ones((1, 1), bool)}
    text = Text(None, lambda prompts: np.zeros((len(prompts), 1), np.int32), lambda params, tokens: told, None)
    plain = Drawing(lambda steps, tokens: times.grid(steps), patch=1, steps=(1,), sampler="heun", ask="now", batch=8)
    return api.assemble(net, text, plain._replace(**drawing)), {"net": {}, "text": {}}


def unit(x):
    return (np.asarray(x, np.float64) - SHIFT) / SCALE


def ended(x, t, last=0.0):
    """Where the flow takes x from t to `last`: of Gaussian data it keeps x / spread."""
    return x * spread(last) / spread(t)


NOISE = np.random.default_rng(1).standard_normal((ROWS, 4, 4, 3)).astype(np.float32)
PROMPTS = [""] * ROWS
DATA = unit(PICTURE / 127.5 - 1)


@pytest.mark.parametrize("path", ["linear", "trig"])
@pytest.mark.parametrize("strength", [0.15, 0.6])
def test_a_walk_from_a_picture_ends_where_the_flow_takes_it(path, strength):
    found = api.sample_array(*gaussian(path), PROMPTS, 32, noise=NOISE, image=PICTURE, strength=strength)
    want = ended((1 - strength) * DATA + strength * NOISE, strength)
    np.testing.assert_allclose(unit(found), want, atol=2e-3)


def test_a_walk_from_a_picture_of_a_discrete_clock():
    """DDIM's grid begins at .93 and stops before 0, where peers hand out x at the clock's scale: from noise of unit variance, but from a
    picture by its own mixture."""
    schedule = of_scheduler(DDIM | {"set_alpha_to_one": False, "steps_offset": 1})
    model = gaussian(times=schedule.grid, ends=lambda t: ends(schedule, t))
    first, last = 0.6 * schedule.grid(100)[[0, -1]]
    found = api.sample_array(*model, PROMPTS, 100, noise=NOISE, image=PICTURE, strength=0.6)
    want = ended((1 - first) * DATA + first * NOISE, first, last) / np.hypot(last, 1 - last)
    assert 0.5 < first < 0.6 and 0.01 < last < 0.02
    np.testing.assert_allclose(unit(found), want, atol=4e-3)


def test_the_law_of_what_is_drawn_from_a_picture():
    """N(k (1 - t) picture, k^2 t^2), k = spread(0) / spread(t); and from pictures of the data's law that law, whatever the strength."""
    rows = 256
    model, t = gaussian(batch=rows), 0.4
    x = unit(api.sample_array(*model, [""] * rows, 12, image=PICTURE, strength=t))
    k = spread(0) / spread(t)
    assert np.abs(x.mean(0) - k * (1 - t) * DATA).max() < 4 * k * t / rows**0.5
    assert x.std(0, ddof=1).mean() == pytest.approx(k * t, rel=0.03)
    pictures = SHIFT + SCALE * VARIANCE**0.5 * np.random.default_rng(2).standard_normal((rows, 4, 4, 3)).astype(np.float32)
    x = unit(api.sample_array(*model, [""] * rows, 12, image=pictures, strength=t))
    assert x.std() == pytest.approx(VARIANCE**0.5, rel=0.03)
    assert np.mean(x * unit(pictures)) / VARIANCE == pytest.approx(k * (1 - t), abs=0.04)


@pytest.mark.parametrize(
    "sampler", [name if name in ("dpm", "restart") else pytest.param(name, marks=pytest.mark.slow) for name in flags.SAMPLERS]
)
def test_at_both_ends_of_strength(sampler):
    """1 is the walk from noise bit for bit, next to nothing the picture pixel by pixel."""
    model = gaussian(sampler=sampler)
    plain = api.sample_array(*model, PROMPTS[:8], 3, seed=4)
    assert (api.sample_array(*model, PROMPTS[:8], 3, seed=4, image=PICTURE, strength=1.0) == plain).all()
    near = api.sample_array(*model, PROMPTS[:8], 3, seed=4, image=PICTURE, strength=0.9999)
    assert 0 < np.abs(near - plain).max() < 1e-2  # the noise is the same
    assert (api.sample(*model, PROMPTS[:8], 3, seed=4, image=PICTURE, strength=1e-6) == PICTURE).all()


def test_pictures_of_every_row():
    """In batches that are not full; one picture for all is the same as that picture again and again."""
    model, pictures = gaussian(), np.random.default_rng(3).integers(0, 256, (ROWS, 4, 4, 3), np.uint8)
    found = api.sample_array(*model, PROMPTS, 2, image=pictures, strength=0.3)
    again = [api.sample_array(*model, [""], 2, image=pictures[i], strength=0.3, first=i)[0] for i in (0, 9, ROWS - 1)]
    np.testing.assert_allclose(found[[0, 9, ROWS - 1]], again, atol=1e-6)
    assert api.sample_array(*model, [], 2, image=PICTURE).shape == (0, 4, 4, 3)


class Halves:
    """An autoencoder that one can follow: a latent is the mean of four pixels, halved."""

    def __init__(self):
        self.seen = 0

    def __call__(self):
        from anystep.types import Codec

        def encode(params, x):
            self.seen += 1  # when it is traced
            return params["gain"] * x.reshape(-1, x.shape[1] // 2, 2, x.shape[2] // 2, 2, 3).mean((2, 4))

        return Codec(None, encode, lambda params, z: jnp.repeat(jnp.repeat(z / params["gain"], 2, 1), 2, 2), 2, 3)


def test_a_picture_is_encoded_once():
    (model, params), codec = gaussian(), Halves()
    model = api.assemble(model.net, model.text, model.drawing, codec=codec())
    params, pictures = params | {"codec": {"gain": jnp.float32(0.5)}}, np.repeat(np.repeat(PICTURE, 2, 0), 2, 1)
    calls = []
    counted = model._replace(encode=lambda *known: calls.append(1) or model.encode(*known))
    found = api.sample_array(counted, params, PROMPTS, 32, noise=NOISE, image=pictures, strength=0.5)
    want = ended(0.5 * unit(0.5 * (PICTURE / 127.5 - 1)) + 0.5 * NOISE, 0.5)
    assert len(calls) == 1 and found.shape == (ROWS, 8, 8, 3)
    np.testing.assert_allclose(unit(0.5 * found[:, ::2, ::2]), want, atol=2e-3)


@pytest.mark.slow
def test_a_pipeline_of_others_begins_with_a_picture():
    pytest.importorskip("tokenizers")
    model, params = api.load(FIXTURES / "pipeline_sana_sprint")
    picture = np.random.default_rng(5).integers(0, 256, (32, 64, 3), np.uint8)
    x = jnp.asarray(picture[None] / np.float32(127.5) - 1)
    decoded = model.decode(params["codec"], model.encode(params["codec"], x))
    how = {"size": (32, 64), "image": picture, "steps": 1}
    near = api.sample_array(model, params, ["a red ring"], strength=1e-6, **how)
    np.testing.assert_allclose(near, decoded, atol=1e-4 * np.abs(decoded).max())
    far = api.sample_array(model, params, ["a red ring"], strength=0.7, **how)
    assert np.isfinite(far).all() and np.abs(far - near).max() > 1e-2
    with pytest.raises(UserError, match=r"image: shape \[32, 64, 3\], allowed is \[64, 32, 3\] or \[1, 64, 32, 3\]"):
        api.sample_array(model, params, ["a red ring"], image=picture, size=(64, 32))


@pytest.mark.parametrize("name", ["sana_sprint", pytest.param("sd1", marks=pytest.mark.slow)])
def test_the_last_steps_of_a_grid_are_diffusers_image_to_image(name):
    """Recorded latents (fixtures/make_img2img.py): two of four steps, whose first time is our strength. SD's picture is given as latent."""
    pytest.importorskip("tokenizers")
    model, params = api.load(FIXTURES / f"pipeline_{name}")
    recorded = np.load(FIXTURES / "pipeline_img2img.npz")
    known = {field: recorded[f"in_{name}_{field}"] for field in ("picture", "noise", "times")}
    if name == "sd1":
        given = iter(known["picture"].transpose(0, 2, 3, 1))
        model = model._replace(encode=lambda params, x: next(given)[None])
        grid, picture, fresh = np.append(times_of(known["times"]), times_of(0)), np.zeros((2, 32, 48, 3), np.float32), None
    else:
        grid, picture = np.asarray(to_flow_time(TRIG, jnp.asarray(known["times"]))), known["picture"]
        fresh = recorded[f"in_{name}_fresh"].transpose(0, 2, 3, 1)[None]
        fresh = jnp.asarray(np.concatenate([fresh, fresh]))  # the second is multiplied by sin 0
    latents = []

    def fed(sampler):
        return sampler._replace(init=lambda key, noise, t: sampler.init(fresh, noise, t))

    model = model._replace(decode=lambda params, z: latents.append(np.asarray(z)) or jnp.zeros((1, *picture.shape[1:])))
    api.sample_array(
        model,
        params,
        ["A red ring, please", "two  blue squares: it's 3 o'clock"],
        size=picture.shape[1:3],
        noise=known["noise"].transpose(0, 2, 3, 1),
        image=picture,
        strength=float(grid[0]),
        times=grid / grid[0],
        steer=None if fresh is None else fed,
    )
    want = recorded[f"out_{name}"].transpose(0, 2, 3, 1)
    error = np.abs(np.concatenate(latents) - want).max() / np.abs(want).max()
    print(name, error)
    assert error <= 2e-5


@pytest.mark.parametrize(
    "how, said",
    [
        ({"image": PICTURE, "strength": 0}, r"strength: 0, allowed is a number above 0, up to 1"),
        ({"image": PICTURE, "strength": 1.01}, r"strength: 1\.01"),
        ({"image": PICTURE, "strength": float("nan")}, "strength: nan"),
        ({"image": PICTURE, "strength": "half"}, "strength: 'half'"),
        ({"image": PICTURE[:3]}, r"image: shape \[3, 4, 3\], allowed is \[4, 4, 3\] or \[2, 4, 4, 3\]"),
        ({"image": PICTURE[None]}, r"image: shape \[1, 4, 4, 3\]"),
        ({"image": PICTURE.astype(np.int32)}, "image: int32, allowed is uint8, or finite floats"),
        ({"image": np.full((4, 4, 3), np.nan)}, "image: float64, allowed is uint8, or finite"),
        ({"times": [1.0]}, r"times: \[1\.0\], allowed are two or more that decrease"),
        ({"times": [1.0, 0.5, 0.5, 0.0]}, "that decrease"),
        ({"times": [0.5, 1.0]}, "that decrease"),
        ({"times": [1.2, 0.0]}, "between 1 and 0"),
        ({"times": [1.0, float("nan"), 0.0]}, "that decrease"),
        ({"times": "table 7"}, "times: 'table 7', allowed sprint, sprint_released, sprint_ablations, or flow times"),
        ({"times": "sprint", "steps": 3}, "times: 'sprint' has no list for 3 steps, but for 1, 2, 4"),
        ({"times": "sprint_released", "steps": 0}, "steps: 0"),
        ({"steps": 1001}, "steps: 1001, allowed 1 to 1000"),
    ],
)
def test_what_is_refused(how, said):
    with pytest.raises(UserError, match=said):
        api.sample_array(*gaussian(), ["", ""], **how)


def test_published_times_by_name():
    assert {name: tuple(known or ()) for name, known in times.PUBLISHED.items()} == flags.LISTS
    listed = {("sprint", 1): [np.pi / 2, 0], ("sprint", 2): [1.5683, 1.3, 0], ("sprint", 4): [1.5683, 1.3, 1.1, 0.6, 0]}
    listed |= {("sprint_released", 2): [np.pi / 2, 1.3, 0], ("sprint_released", 3): [np.pi / 2, np.pi / 3, np.pi / 6, 0]}
    listed |= {("sprint_ablations", 2): [np.pi / 2, 1.0, 0]}
    for (name, steps), angles in listed.items():
        found = walks.times_of(None, steps, 1, name)
        assert found[0] <= 1 and found.dtype == np.float32
        np.testing.assert_allclose(found, to_flow_time(TRIG, jnp.array(angles)), atol=1e-5)
    model = gaussian("trig", sampler="euler")
    by_name = api.sample_array(*model, PROMPTS, 4, times="sprint")
    assert (by_name == api.sample_array(*model, PROMPTS, times=walks.times_of(None, 4, 1, "sprint"))).all()
