"""FLUX: numbers of the peer, names in both directions, and the contract of a Model with two kinds of blocks."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from anystep import sampling, times, tree, weights
from anystep.errors import UserError
from anystep.flow_map import total_derivative
from anystep.nets import mmdit
from anystep.types import Capture
from anystep.weights.names import to_ours, to_peers
from anystep.weights.peers.flux import CLASS, PEERS

PEER = PEERS[CLASS]
pytestmark = pytest.mark.slow  # what is quick of other people's networks is in test_port
FIXTURES = Path(__file__).parent / "fixtures"
CASES = pytest.mark.parametrize("case", ["dev", "schnell", "ids"])
TINY = mmdit.Options(
    (4, 6, 2), heads=2, head_width=8, double=2, single=2, rope=(2, 2, 4), text_width=6, pooled_width=5, guidance=True, second_time=True
)
UNROLLED = {"scan": False, "masked": True}
NETS = pytest.mark.parametrize("options", [{}, UNROLLED], ids=["scanned", "unrolled and masked"])


def fixture(case):
    """(options, the peer's tensors, our params, recorded)."""
    folder = FIXTURES / f"flux_{case}"
    options = PEER.options(json.loads((folder / "config.json").read_text()))
    peers = weights.read_safetensors(folder / "weights.safetensors")
    ours = {name: to_ours(source, peers.__getitem__) for name, source in PEER.names(options).items()}
    with np.load(folder / "io.npz", allow_pickle=False) as recorded:
        return options, peers, tree.nest(ours), dict(recorded)


def close(found, true, tolerance=2e-5):
    assert found.shape == true.shape and np.abs(found - true).max() <= tolerance * np.abs(true).max()


@CASES
def test_every_recorded_number(case):
    options, _, params, recorded = fixture(case)
    answers = PEER.answers(options, params, recorded)
    assert set(answers) == {name for name in recorded if name.startswith(("out_", "mid."))}
    for name, answer in answers.items():
        close(answer, recorded[name])


@CASES
def test_names_cover_both_sides_and_give_every_bit_back(case):
    options, peers, params, _ = fixture(case)
    names = PEER.names(options)
    expected = jax.eval_shape(PEER.init(options), jax.random.key(0))
    assert weights.match(expected, params) == weights.Match((), (), ())
    written = [pair for name, leaf in tree.paths(params).items() for pair in to_peers(names[name], leaf)]
    assert len(written) == len(peers) and {name for name, _ in written} == set(peers)
    for name, array in written:
        assert array.shape == peers[name].shape and array.tobytes() == peers[name].tobytes()


@pytest.mark.parametrize("case", ["dev", "schnell"])
def test_latents_are_packed_as_the_pipeline_packs_them(case):
    options, _, params, recorded = fixture(case)
    model = mmdit.build(options)
    x, t = recorded["latents"].transpose(0, 2, 3, 1), recorded["in_timestep"]
    cond = {"features": recorded["in_encoder_hidden_states"], "pooled": recorded["in_pooled_projections"]}
    cond |= {"guidance": recorded["in_guidance"]} if options.guidance else {}
    u, aux = jax.jit(model.velocity)(params, x, t, t, cond)
    assert aux == {}
    close(u, recorded["velocity"].transpose(0, 2, 3, 1))


def test_config_comes_back():
    for case in ("dev", "schnell"):
        said = json.loads((FIXTURES / f"flux_{case}" / "config.json").read_text())
        assert PEER.config(PEER.options(said)) == said
    assert PEER.options({"_class_name": CLASS, "_diffusers_version": "0.30.0"}) == mmdit.Options()
    for field in ("second_time", "masked"):
        with pytest.raises(UserError, match=f"{field} = True"):
            PEER.config(mmdit.Options()._replace(**{field: True}))


@pytest.mark.parametrize(
    "field, value",
    [
        ("patch_size", 2),
        ("in_channels", 6),
        ("out_channels", 16),
        ("num_layers", 0),
        ("num_single_layers", 1.5),
        ("guidance_embeds", "yes"),
        ("axes_dims_rope", None),
        ("axes_dims_rope", [16, 56]),
        ("axes_dims_rope", [16, 56, 58]),
        ("axes_dims_rope", [15, 57, 56]),
        ("theta", 10000),
    ],
)
def test_what_is_not_ours_is_refused(field, value):
    with pytest.raises(UserError, match=rf"config.json: {field} = .* not supported, allowed") as caught:
        PEER.options({field: value})
    assert "\n" not in str(caught.value)


SELF_E = {"heads": 16, "double": 8, "single": 16, "second_time": True}


@pytest.mark.parametrize(
    "options, parameters, tolerance",
    [
        ({}, 11_891_178_560, 0),  # diffusers' own models, counted on torch's meta device
        ({"guidance": True}, 11_901_408_320, 0),
        (SELF_E | {"head_width": 64, "rope": (8, 28, 28)}, 0.565e9, 0.0005),
        (SELF_E | {"head_width": 128, "rope": (16, 56, 56)}, 2.25e9, 0.002),
    ],
    ids=["schnell", "dev", "Self-E 0.5B", "Self-E 2B"],
)
def test_parameter_counts(options, parameters, tolerance):
    found = tree.count(jax.eval_shape(mmdit.build(mmdit.Options(**options)).init, jax.random.key(0)))
    assert abs(found - parameters) <= tolerance * parameters


def setting(rows=2, size=(4, 6), **options):
    """A tiny network with every leaf random, and what it is asked."""
    o = TINY._replace(**options)
    model = mmdit.build(o, ends="renoise")
    x, f, p, d = jax.random.split(jax.random.key(3), 4)
    t, s = jnp.linspace(0.9, 0.4, rows), jnp.linspace(0.5, 0.1, rows)
    cond = {"features": jax.random.normal(f, (rows, 5, o.text_width)), "pooled": jax.random.normal(p, (rows, o.pooled_width))}
    cond |= {"guidance": jnp.linspace(1.0, 3.5, rows), "mask": jnp.arange(5)[None] < jnp.linspace(2, 5, rows)[:, None]}
    return model, toys.random_params(model), jax.random.normal(x, (rows, *size, 2)), t, s, cond


@functools.cache
def compiled(**options):
    """`setting`, the jitted velocity and its answer."""
    model, params, *asked = setting(**options)
    velocity = jax.jit(model.velocity)
    return model, params, *asked, velocity, velocity(params, *asked)[0]


@NETS
def test_parts_are_the_whole(options):
    model, params, x, t, s, cond, _, whole = compiled(**options)
    assert whole.shape == x.shape and model.depth == 4
    h = jax.jit(model.embed)(params, x, t, s, cond)
    head, blocks = jax.jit(model.head), jax.jit(model.blocks, static_argnums=(2, 3))
    assert (head(params, blocks(params, h, 0, 4)[0]) == whole).all()
    for lo, hi in ((0, 1), (1, 3), (3, 4)):  # cut inside each kind; the part between goes over from one to the other
        h, aux = blocks(params, h, lo, hi)
        assert aux == {}
    assert (head(params, h) == whole).all()


@NETS
def test_capture_changes_no_bit(options):
    model, params, x, t, s, cond, _, u = compiled(**options)
    tokens = jnp.broadcast_to(jnp.eye(5), (2, 5, 5))
    captured, aux = jax.jit(lambda *a: model.velocity(*a, capture=Capture((3, 0), tokens)))(params, x, t, s, cond)
    assert (captured == u).all()
    assert aux["maps"].shape == (2, 2, 2, 5, 6)  # layers, batch, heads, objects, image tokens
    np.testing.assert_allclose(aux["maps"].sum(axis=3), 1.0, atol=1e-5)
    absent = jnp.moveaxis(aux["maps"], 3, 2)[:, ~cond["mask"]]
    assert (absent == 0).all() == options.get("masked", False)
    with pytest.raises(ValueError, match="allowed are different ones of 0 to 3"):
        jax.eval_shape(lambda *a: model.velocity(*a, capture=Capture((4,), tokens)), params, x, t, s, cond)


def test_maps_are_a_softmax_over_the_prompt():
    """From the q and k of a block, turned as complex numbers."""
    model, params, x, t, s, cond = setting()
    h = jax.jit(model.embed)(params, x, t, s, cond)
    objects = jax.random.uniform(jax.random.key(4), (2, 3, 5))
    maps = jax.jit(lambda h: model.blocks(params, h, 0, 1, Capture((0,), objects))[1]["maps"][0])(h)

    @jax.jit
    def heads(h):
        first = {"params": jax.tree.map(lambda p: p[0], params["double"])}
        arguments = h["text"], h["tokens"], h["e"], h["rope"]
        named = {"capture_intermediates": lambda m, _: m.name == "attention", "mutable": ["intermediates"]}
        return mmdit.Double(TINY).apply(first, *arguments, **named)[1]["intermediates"]

    found = heads(h)
    (q, _, _), (_, k, _) = (found[stream]["attention"]["__call__"][0] for stream in ("tokens", "text"))
    rows, columns = np.divmod(np.arange(6), 3)  # 4 x 6 latents are 2 x 3 patches; the axis t and the text lie at 0
    angles = np.concatenate([0 * rows[:, None], rows[:, None], columns[:, None] / 100.0 ** np.arange(2)], axis=1)
    q = (np.asarray(q)[..., ::2] + 1j * np.asarray(q)[..., 1::2]) * np.exp(1j * angles)[None, :, None]
    k = np.asarray(k)[..., ::2] + 1j * np.asarray(k)[..., 1::2]
    logits = np.einsum("bnhd,bmhd->bhnm", q, k.conj()).real / np.sqrt(8)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(maps, np.einsum("bhnm,bom->bhon", weights, objects), atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"masked": True}], ids=["as FLUX", "masked"])
def test_the_mask_is_an_option(options):
    """Padding is text to FLUX; a network built to heed the mask does not see it."""
    _, params, x, t, s, cond, velocity, u = compiled(**options)
    features = cond["features"] + jnp.where(cond["mask"], 0.0, 1.0)[..., None]
    other = velocity(params, x, t, s, cond | {"features": features})[0]
    assert (u[0] == other[0]).all() == options.get("masked", False) and (u[1] == other[1]).all()  # the second prompt has no padding


def test_an_imported_network_gains_a_second_time():
    options, _, params, recorded = fixture("schnell")
    two = options._replace(second_time=True)
    assert PEER.names(two) == PEER.names(options)
    model = mmdit.build(two, ends="renoise")
    both = weights.take(jax.jit(model.init)(jax.random.key(0)), params, new=("embed/second_time/*",))
    x, t = recorded["latents"].transpose(0, 2, 3, 1), recorded["in_timestep"]
    cond = {"features": recorded["in_encoder_hidden_states"], "pooled": recorded["in_pooled_projections"]}
    embeds = jax.jit(model.embed)
    alone = jax.jit(mmdit.build(options).embed)(params, x, t, t, cond)
    for s in (t, 0.5 * t, 0 * t):
        assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), embeds(both, x, t, s, cond), alone))  # s enters here alone
    both["embed"]["second_time"]["out"] = both["embed"]["time"]["out"]
    answers = [embeds(both, x, t, s, cond)["e"] for s in (t, 0.5 * t)]
    assert np.abs(answers[0] - answers[1]).max() > 1e-3


def test_latents_of_any_even_size():
    model, params, x, t, s, cond = setting(size=(2, 8))
    assert jax.eval_shape(model.velocity, params, x, t, s, cond)[0].shape == x.shape
    with pytest.raises(ValueError, match="must be even"):
        jax.eval_shape(model.velocity, params, x[:, :, :7], t, s, cond)
    with pytest.raises(ValueError, match="guidance"):
        jax.eval_shape(model.velocity, params, x, t, s, {name: cond[name] for name in ("features", "pooled")})


def test_du_dt():
    """Against central differences. The clock turns a thousand radians in unit time, so the step is small; times and steps are powers of
    two, exact in float32, and Richardson's rule takes the error of the step to h^4. What is left is the rounding of the angles, 3e-5 of
    0.12 radians, and of u."""
    model, params, x, _, _, cond, velocity, _ = compiled()
    params = jax.tree.map(lambda p: p / 2, params)  # a calmer network: its fifth derivative by t is a thousand to the fifth
    t, s = jnp.array([0.75, 0.5]), jnp.array([0.25, 0.375])
    v = jax.random.normal(jax.random.key(9), x.shape)
    derivative = jax.jit(lambda x, t: total_derivative(lambda *a: model.velocity(params, *a, cond), x, t, s, v)[1])(x, t)

    def difference(h):
        ahead, behind = (np.asarray(velocity(params, x + d * v, t + d, s, cond)[0], np.float64) for d in (h, -h))
        return (ahead - behind) / (2 * h)

    h = 2.0**-13
    close(derivative, (4 * difference(h) - difference(2 * h)) / 3, 2e-3)


def loss_of(**options):
    """(gradient, u, du/dt) of what a consistency objective does: a loss of the jump, its tangent stopped."""
    model, params, x, t, s, cond = setting(**options)
    v = jax.random.normal(jax.random.key(9), x.shape)

    def loss(params):
        u, derivative, _ = total_derivative(lambda x, t, s: model.velocity(params, x, t, s, cond), x, t, s, v)
        return jnp.mean((u - v + 1e-3 * (t - s)[:, None, None, None] * derivative) ** 2), (u, derivative)

    return loss, jax.tree.map(lambda p: p / 2, params)


@pytest.mark.long
def test_scan_unroll_and_remat_are_one_network():
    found = []
    for options in ({}, {"scan": False, "remat": True}):
        loss, params = loss_of(**options)
        found.append(jax.tree.leaves(jax.jit(jax.grad(loss, has_aux=True))(params)))
    for a, b in zip(*found, strict=True):
        assert np.abs(a - b).max() <= 2e-5 * np.abs(b).max() + 1e-8


def test_bfloat16_under_jvp_and_grad():
    found = []
    for options in ({}, {"dtype": "bfloat16", "remat": True}):
        loss, params = loss_of(**options)
        gradient, answers = jax.jit(jax.grad(loss, has_aux=True))(params)
        assert all(a.dtype == jnp.float32 and np.isfinite(a).all() for a in jax.tree.leaves((gradient, answers)))
        found.append((*answers, tree.global_norm(gradient)))
    for a, b in zip(*found, strict=True):
        assert np.linalg.norm(a - b) < 0.1 * np.linalg.norm(b)
    assert (found[0][0] != found[1][0]).any()


def test_which_parameters_speak():
    """All of them; in a fresh network, whose blocks are the identity by the last layer of each branch, those last layers do."""
    model, params, x, t, s, cond = setting()
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(3 * model.velocity(p, x, t, s, cond)[0]))))
    found = tree.paths(gradient(params))
    largest = max(float(jnp.abs(g).max()) for g in found.values())
    assert not [name for name, g in found.items() if jnp.abs(g).max() < 1e-6 * largest]

    fresh = jax.jit(model.init)(jax.random.key(0))
    h = jax.jit(model.embed)(fresh, x, t, s, cond)
    after = jax.jit(model.blocks, static_argnums=(2, 3))(fresh, h, 0, 4)[0]
    assert (after["tokens"] == h["tokens"]).all() and (after["text"] == h["text"]).all()
    found = tree.paths(gradient(fresh))
    assert all(
        np.abs(found[f"{name}/kernel"]).max() > 1e-6 for name in ("double/tokens/out", "double/tokens/mlp/out", "single/out", "head/out")
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"dtype": "bfloat16", "remat": True, "masked": True, "scan": False}],
    ids=["plain", "all options"],
)
def test_step_and_sampler_lower_for_accelerators(options):
    loss, params = loss_of(**options)
    model, _, x, _, _, cond = setting(**options)

    def step(params):
        return jax.value_and_grad(loss, has_aux=True)(params)

    def draw(params, noise, cond):
        sampler = sampling.make("euler", lambda x, t, s: model.velocity(params, x, t, s, cond), model)
        return sampling.sample(sampler, jax.random.split(jax.random.key(0), 2), noise, times.grid(4))[0]

    for function, arguments in ((step, (params,)), (draw, (params, x, cond))):
        exported = jax.export.export(jax.jit(function), platforms=["tpu", "cuda"])(*jax.eval_shape(lambda *a: a, *arguments))
        assert exported.platforms == ("tpu", "cuda") and len(exported.mlir_module_serialized) > 1000
