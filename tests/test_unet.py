"""The UNet of Stable Diffusion: diffusers' numbers, names and sizes; its clock behind flow time; what a Model promises."""

import functools
import hashlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from anystep import tree
from anystep.errors import UserError
from anystep.flow_map import total_derivative
from anystep.nets import discrete, unet
from anystep.types import Capture
from anystep.weights import read_safetensors
from anystep.weights.names import to_ours
from anystep.weights.peers.unet import PEERS

PEER = PEERS["UNet2DConditionModel"]
pytestmark = pytest.mark.slow  # what is quick of other people's networks is in test_port
FIXTURES = Path(__file__).with_name("fixtures")
FULL = json.loads((FIXTURES / "unet_full.json").read_text())


@functools.cache
def fixture(case):
    """(config, options, the peer's tensors, our params, what is recorded)."""
    folder = FIXTURES / case
    config = json.loads((folder / "config.json").read_text())
    options, theirs = PEER.options(config), read_safetensors(folder / "weights.safetensors")
    params = tree.nest({name: to_ours(source, theirs.__getitem__) for name, source in PEER.names(options).items()})
    with np.load(folder / "io.npz") as io:
        return config, options, theirs, params, dict(io)


@pytest.mark.parametrize("case", ["unet_v2", "unet_odd"])
def test_answers_are_the_peers(case):
    _, options, _, params, recorded = fixture(case)
    answers = PEER.answers(options, params, recorded)
    assert set(answers) == {name for name in recorded if name.startswith(("out_", "mid."))}
    for name, found in answers.items():
        true, allowed = recorded[name], 1e-4 if name == "out_jvp" else 2e-5
        assert found.shape == true.shape and found.dtype == true.dtype, name
        assert np.abs(found - true).max() <= allowed * np.abs(true).max(), name


def test_one_timestep_for_all():
    _, options, _, params, recorded = fixture("unet_odd")
    few = {name: recorded[name][:1] for name in ("in_sample", "in_encoder_hidden_states", "out_sample")}
    answers = PEER.answers(options, params, few | {"in_timestep": recorded["in_timestep"][0]})
    assert set(answers) == {"out_sample"}
    np.testing.assert_allclose(answers["out_sample"], few["out_sample"], atol=2e-5)


@pytest.mark.parametrize("name", ["sd15", "sd21"])
def test_full_size(name):
    expected = FULL[name]
    options = PEER.options(expected["config"] | {"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0"})
    shapes, names = tree.paths(jax.eval_shape(PEER.init(options), jax.random.key(0))), PEER.names(options)
    assert set(shapes) == set(names)
    assert sum(leaf.size for leaf in shapes.values()) == expected["parameters"]
    lines = []
    for ours, source in names.items():  # views of one zero: nothing of the size of the network is made
        shape = source.layout.peers(np.broadcast_to(np.float32(0), shapes[ours].shape)).shape
        lines.append(f"{source.names[0]} {list(shape)}")
    assert len(lines) == expected["tensors"]
    assert hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest() == expected["sha256"]


def test_the_counts_are_the_published_ones():
    assert (FULL["sd15"]["parameters"], FULL["sd21"]["parameters"]) == (859_520_964, 865_910_724)


@pytest.mark.parametrize("name", ["unet_v2", "unet_odd", "sd15", "sd21"])
def test_config_there_and_back(name):
    config = fixture(name)[0] if name.startswith("unet") else FULL[name]["config"]
    options = PEER.options(config)
    written = json.loads(json.dumps(PEER.config(options)))
    assert written["_class_name"] == "UNet2DConditionModel" and PEER.options(written) == options
    levels = len(options.widths)
    for field, value in config.get("config", config).items():  # as loaded, every field says the same as the peer's own
        if field == "attention_head_dim":
            value = [value] * levels if isinstance(value, int) else value
        if field not in ("upcast_attention", "addition_embed_type_num_heads"):
            assert written[field] == value, field


def test_an_old_file_leaves_fields_out():
    old = {"_class_name": "UNet2DConditionModel", "sample_size": 64, "cross_attention_dim": 768}
    assert PEER.options(old) == PEER.options(FULL["sd15"]["config"]) == unet.Options()


@pytest.mark.parametrize(
    "field, value",
    [
        ("in_channels", 9), ("down_block_types", ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"]),
        ("up_block_types", ["UpBlock2D"]),
        ("attention_head_dim", [5, 10]), ("layers_per_block", [1, 2, 2, 2]), ("transformer_layers_per_block", [1, 2, 10]),
        ("addition_embed_type", "text_time"), ("class_embed_type", "projection"), ("num_class_embeds", 1000), ("mid_block_type", None),
        ("time_cond_proj_dim", 256), ("norm_num_groups", None), ("flip_sin_to_cos", False), ("a_new_field", 1),
    ],
)  # fmt: skip
def test_what_we_do_not_have_is_refused(field, value):
    with pytest.raises(UserError, match=f"config.json: {field}.* allowed") as caught:
        PEER.options(FULL["sd15"]["config"] | {field: value})
    assert "\n" not in str(caught.value)


# the clock


def test_steps_of_the_table_are_integers():
    step = jax.jit(discrete.step_number)(jnp.asarray(discrete.TIMES, jnp.float32))
    np.testing.assert_allclose(step, np.arange(1000), rtol=1e-7)
    for i, squared in FULL["alphas_cumprod"].items():
        t = discrete.TIMES[int(i)]
        np.testing.assert_allclose((1 - t) ** 2 / ((1 - t) ** 2 + t**2), squared, rtol=2e-6)


@pytest.mark.parametrize("betas", [("scaled_linear", 0.00085, 0.012), ("linear", 1e-4, 0.02)])
def test_any_betas(betas):
    """The table from the other end: all products anew. A network is asked at its own table's steps, between two near the middle."""
    law, first, last = betas
    spaced = [first + (last - first) * i / 999 for i in range(1000)]
    if law == "scaled_linear":
        spaced = [(first**0.5 + (last**0.5 - first**0.5) * i / 999) ** 2 for i in range(1000)]
    for i in (0, 7, 400, 999):
        squared = np.prod([1 - beta for beta in spaced[: i + 1]])
        t = discrete.times_of(np.array([float(i)]), betas)
        np.testing.assert_allclose((1 - t) ** 2 / ((1 - t) ** 2 + t**2), squared, rtol=1e-9)
        np.testing.assert_allclose(discrete.step_number(jnp.asarray(t, jnp.float32), betas), i, rtol=1e-5)
    np.testing.assert_allclose(discrete.step_number(jnp.asarray(discrete.times_of([400.5], betas), jnp.float32), betas), 400.5, atol=2e-3)


def test_a_model_asks_at_its_own_betas(monkeypatch):
    betas, asked = ("linear", 1e-4, 0.02), []
    monkeypatch.setattr(unet, "clock", lambda step, width: (asked.append(step), jnp.zeros((2, width)))[1])
    model, params, _ = model_of("unet_odd", betas=betas)
    x, _, _, cond = inputs(model, 7)
    t = jnp.asarray(discrete.times_of([250.0, 999.0], betas), jnp.float32)
    h = model.embed(params, x, t, t, cond)
    np.testing.assert_allclose(asked[0], [250, 999], rtol=1e-5)
    prediction = unet.Head(fixture("unet_odd")[1]).apply({"params": params["head"]}, h["y"])
    np.testing.assert_array_equal(model.head(params, h), discrete.velocity_of(x, prediction, t, "epsilon", betas))


def test_steps_between_are_those_of_euler():
    ratio = np.array(FULL["sigma_over_alpha"])
    step = discrete.step_number(jnp.asarray(ratio / (1 + ratio), jnp.float32))
    np.testing.assert_allclose(step, FULL["step"], atol=2e-3)  # t near 0.94 in float32 is known to 1e-4 steps, their table to 1e-3


def test_steps_stop_at_the_ends():
    t = jnp.array([0.0, 0.01, discrete.TIMES[-1] + 1e-3, 1.0], jnp.float32)
    step, slope = jax.jvp(discrete.step_number, (t,), (jnp.ones_like(t),))
    assert step.tolist() == [0, 0, 999, 999] and slope.tolist() == [0, 0, 0, 0]
    inside = jnp.linspace(0.03, 0.93, 400)
    step, slope = jax.jvp(discrete.step_number, (inside,), (jnp.ones_like(inside),))
    assert (jnp.diff(step) > 0).all() and (slope > 0).all() and jnp.isfinite(slope).all()


MEAN, VARIANCE = 0.4, 0.7


def exact(x, t):
    """E[noise - x0 | x_lin] for x0 ~ N(MEAN, VARIANCE)."""
    off, total = x - (1 - t) * MEAN, (1 - t) ** 2 * VARIANCE + t**2
    return t / total * off - MEAN - (1 - t) * VARIANCE / total * off


def ideal(x, t, predicts):
    """What a perfect network says about x at flow time t, at the step it is asked at: (prediction, its x0, its noise)."""
    k = jnp.clip(t, discrete.TIMES[0], discrete.TIMES[-1])
    alpha, sigma = (1 - k) / jnp.hypot(k, 1 - k), k / jnp.hypot(k, 1 - k)
    off, total = x / jnp.hypot(t, 1 - t) - alpha * MEAN, alpha**2 * VARIANCE + sigma**2
    x0, noise = MEAN + alpha * VARIANCE / total * off, sigma / total * off
    return noise if predicts == "epsilon" else alpha * noise - sigma * x0, x0, noise


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
def test_velocity_of_a_perfect_network(predicts):
    with jax.enable_x64(True):
        t = jnp.linspace(discrete.TIMES[0], discrete.TIMES[-1], 57)
        x = jnp.asarray(np.random.default_rng(0).normal(size=57))

        def velocity(x, t):
            return discrete.velocity_of(x, ideal(x, t, predicts)[0], t, predicts)

        np.testing.assert_allclose(velocity(x, t), exact(x, t), atol=1e-12)
        t, x = t[1:-1], x[1:-1]  # a clip's derivative halves at its very end
        slope = jax.jvp(velocity, (x, t), (exact(x, t), jnp.ones_like(t)))[1]
        np.testing.assert_allclose(slope, jax.jvp(exact, (x, t), (exact(x, t), jnp.ones_like(t)))[1], atol=1e-9)
        h = 1e-6
        difference = (velocity(x + h * exact(x, t), t + h) - velocity(x - h * exact(x, t), t - h)) / (2 * h)
        np.testing.assert_allclose(slope, difference, atol=1e-6)


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
def test_beyond_the_table_one_end_is_kept(predicts):
    x = jnp.array([-1.3, 0.2, 0.9], jnp.float32)
    for end in (0.0, 0.01, 0.96, 1.0):
        t = jnp.full(3, end)
        prediction, x0, noise = ideal(x, t, predicts)
        u = discrete.velocity_of(x, prediction, t, predicts)
        found, kept = (x - t * u, x0) if end > 0.5 else (x + (1 - t) * u, noise)
        np.testing.assert_allclose(found, kept, atol=3e-6)
        np.testing.assert_allclose(u, exact(x, t), atol=0.08)  # what not to know the last steps costs
        slope = jax.jvp(lambda x, t: discrete.velocity_of(x, ideal(x, t, predicts)[0], t, predicts), (x, t), (x, jnp.ones(3)))[1]
        assert jnp.isfinite(slope).all()


def model_of(case, **options):
    _, o, _, params, recorded = fixture(case)
    return unet.build(o._replace(**options)), params, recorded


def test_model_at_a_step_is_the_peer():
    """The whole way: the peer's sample as a point of the linear path, its timestep as flow time, its answer as a velocity."""
    model, params, recorded = model_of("unet_odd")
    squared = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[recorded["in_timestep"].astype(int)]
    alpha, sigma = (np.sqrt(c)[:, None, None, None] for c in (squared, 1 - squared))
    sample, answer = (recorded[name].transpose(0, 2, 3, 1).astype(np.float64) for name in ("in_sample", "out_sample"))
    x, t = (jnp.asarray(a, jnp.float32) for a in (sample / (alpha + sigma), (sigma / (alpha + sigma)).ravel()))
    cond = {"features": jnp.asarray(recorded["in_encoder_hidden_states"]), "mask": jnp.ones((2, 5), bool)}
    h, aux = jax.jit(model.blocks, static_argnums=(2, 3))(params, model.embed(params, x, t, t, cond), 0, model.depth)
    assert aux == {} and model.depth == 5 and model.ends == "none"
    for predicts, true in (
        ("epsilon", answer - (sample - sigma * answer) / alpha),
        ("v_prediction", (sigma * sample + alpha * answer) - (alpha * sample - sigma * answer)),
    ):
        u = model_of("unet_odd", predicts=predicts)[0].head(params, h)
        assert u.dtype == jnp.float32
        assert np.abs(u - true).max() <= 1e-4 * np.abs(true).max()  # a step is known to 1e-4 in float32


def inputs(model, width, rows=2, side=8):
    x, t, s, cond = toys.picture_inputs(model._replace(shape=(side, side, model.shape[-1])), rows)
    return x, t, s, cond | {"features": cond["features"][..., :width]}


def test_parts_are_the_whole():
    model, params, _ = model_of("unet_odd")
    x, t, s, cond = inputs(model, 7)

    def parts(params):
        h = model.embed(params, x, t, t, cond)
        for lo, hi in ((0, 1), (1, 3), (3, 5)):
            h, _ = model.blocks(params, h, lo, hi)
        return model.head(params, h)

    whole = jax.jit(lambda params: model.velocity(params, x, t, s, cond)[0])(params)
    assert (jax.jit(parts)(params) == whole).all()


def test_capture():
    model, params, _ = model_of("unet_odd")
    x, t, s, cond = inputs(model, 7)
    tokens = jnp.broadcast_to(jnp.eye(6), (2, 6, 6))
    plain = jax.jit(model.velocity)(params, x, t, s, cond)[0]

    def ask(*layers):
        u, aux = jax.jit(lambda *a: model.velocity(*a, capture=Capture(layers, tokens)))(params, x, t, s, cond)
        assert (u == plain).all()
        return aux["maps"]

    maps = ask(3, 0, 1, 2)  # one on the way down, the middle, two on the way up
    assert [m.shape for m in maps] == [(2, 2, 6, n) for n in (16, 16, 64, 64)]
    for m in maps:
        np.testing.assert_allclose(jnp.sum(m, axis=2), 1.0, atol=1e-5)
    found = ask(3, 2)
    assert found.shape == (2, 2, 2, 6, 64)
    np.testing.assert_allclose(found, jnp.stack(maps[2:]), atol=1e-6)


def test_capture_of_what_is_not_there():
    model, params, _ = model_of("unet_odd")
    tokens = jnp.zeros((2, 6, 6))
    h = {"y": None, "skips": ()}
    for layers in ((4,), (1, 1), (-1,)):
        with pytest.raises(ValueError, match="0 to 3"):
            model.blocks(params, h, 0, model.depth, Capture(layers, tokens))
    assert model.blocks(params, h, 2, 2, Capture((0, 1), tokens))[1] == {}


def test_derivative_in_time():
    model, params, _ = model_of("unet_odd")
    x, _, _, cond = inputs(model, 7)
    t, v, h = jnp.array([0.31, 0.77]), jax.random.normal(jax.random.key(3), x.shape), 5e-5  # 0.03 steps
    velocity = jax.jit(lambda x, t: model.velocity(params, x, t, t, cond)[0])
    u, slope, _ = jax.jit(lambda x, t: total_derivative(lambda x, t, s: model.velocity(params, x, t, s, cond), x, t, t, v))(x, t)
    difference = (velocity(x + h * v, t + h) - velocity(x - h * v, t - h)) / (2 * h)
    assert np.abs(slope - difference).max() <= 5e-3 * np.abs(difference).max()
    np.testing.assert_allclose(u, velocity(x, t), atol=1e-5 * float(np.abs(u).max()))


@pytest.mark.long
def test_every_leaf_learns_through_a_derivative():
    model = unet.build(unet.Options((4, 4, 2), (4,), (1,), (True,), (True,), layers=1, text_width=3, groups=2, remat=True))
    params = toys.random_params(model)
    x, _, _, cond = inputs(model, 3, side=4)

    @jax.jit
    @jax.grad
    def gradient(params):
        t = jnp.array([0.0, 1.0])  # where something could divide by zero
        u, slope, _ = total_derivative(lambda x, t, s: model.velocity(params, x, t, s, cond), x, t, t, x)
        return jnp.sum(u**2) + jnp.sum(u * slope)

    for name, leaf in tree.paths(gradient(params)).items():
        assert jnp.isfinite(leaf).all() and jnp.abs(leaf).max() > 0, name


def test_half_precision_and_remat():
    model, params, _ = model_of("unet_odd")
    x, t, s, cond = inputs(model, 7)
    u = jax.jit(model.velocity)(params, x, t, s, cond)[0]
    again = jax.jit(model_of("unet_odd", remat=True)[0].velocity)(params, x, t, s, cond)[0]
    np.testing.assert_allclose(again, u, rtol=1e-5, atol=1e-5)
    half = jax.jit(model_of("unet_odd", dtype="bfloat16")[0].velocity)(params, x, t, s, cond)[0]
    assert half.dtype == jnp.float32 and 1e-6 < jnp.abs(half - u).mean() < 0.05 * jnp.abs(u).max()


def test_a_fresh_network_says_nothing():
    """Zero-initialised as released: it predicts zero noise, and every residual branch is the identity."""
    model = unet.build(unet.Options((4, 4, 2), (4,), (1,), (True,), (False,), layers=1, text_width=3, groups=2))
    params = jax.jit(model.init)(jax.random.key(0))
    x, t, s, cond = inputs(model, 3, side=4)
    h = jax.jit(lambda params: model.blocks(params, model.embed(params, x, t, s, cond), 0, 2)[0])(params)
    assert (h["y"] == h["skips"][0]).all() and jnp.abs(h["y"]).max() > 0.1
    assert not jax.tree.reduce(lambda a, leaf: a + jnp.abs(leaf).sum(), params["head"]["conv"], 0.0)
