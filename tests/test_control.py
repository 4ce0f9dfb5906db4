"""A ControlNet: edges, the wrapped network, what of it a step moves, drawing with a picture, diffusers' pipeline, and what is refused."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import toys
from PIL import Image

from anystep import api, begin, sample, teachers, train, tree
from anystep import config as configs
from anystep import mesh as meshes
from anystep.bench import control as bench
from anystep.control import edges
from anystep.errors import UserError
from anystep.flow_map import total_derivative
from anystep.nets import controlnet, sana
from anystep.nets.build import build_models, training_models
from anystep.objectives.mix import shown
from anystep.shapes import foreground
from anystep.train_step import make_optimizers, make_train_step
from anystep.weights import port

FIXTURES = Path(__file__).parent / "fixtures"
FLOW = ("--config.model.control=1", "--config.model.frozen=True", "--config.objective.control_dropout=0.25")


# Edges


def test_edges_of_what_can_be_said_by_hand():
    ramp = np.broadcast_to(np.linspace(-0.5, 0.5, 8, dtype=np.float32)[None, None, :, None], (1, 8, 8, 3))
    found = np.asarray(edges(ramp))[0, :, :, 0]
    np.testing.assert_allclose(found[:, 1:-1], 1.0, atol=1e-5)  # as steep everywhere
    np.testing.assert_allclose(found[:, [0, -1]], 0.0, atol=1e-5)  # half of it is outside, where nothing changes
    step = np.full((2, 8, 8, 3), -0.3, np.float32)
    step[0, :, 4:] = 0.7
    white = np.asarray(edges(step))
    assert (white[0, :, 3:5] == 1).all() and (np.delete(white[0], (3, 4), 1) == -1).all() and (white[1] == -1).all()
    x = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    turned = np.rot90(np.asarray(edges(x)), axes=(1, 2))
    np.testing.assert_allclose(np.asarray(edges(np.rot90(x, axes=(1, 2)))), turned, atol=1e-6)
    np.testing.assert_allclose(np.asarray(edges(0.1 * x + 0.4)), np.asarray(edges(x)), atol=1e-5)


# The network


def wrapped(count=2, **options):
    o = toys.OPTIONS._replace(**options)
    trunk, width = sana.build(o, toys.TEXT["width"]), toys.TEXT["width"]
    return trunk, controlnet.controlled(trunk, controlnet.build(o._replace(depth=count), width), count, frozen=True)


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [False, True])
def test_at_first_it_answers_as_its_trunk_to_the_bit(guidance):
    trunk, model = wrapped(guidance=guidance)
    p, (x, t, s, cond) = toys.random_params(trunk), toys.picture_inputs(trunk)
    cond |= {"guidance": t} if guidance else {}
    params = {"trunk": p, "control": controlnet.copied(p, 2)}
    assert tree.paths(jax.eval_shape(model.init, jax.random.key(0))).keys() == tree.paths(params).keys()
    alone, both = (jax.jit(lambda p, c, m=m: m.velocity(p, x, t, s, c)[0]) for m in (trunk, model))
    wanted = {"picture": jax.random.normal(jax.random.key(9), x.shape)}
    u = alone(p, cond)
    for more in ({}, wanted, wanted | {"control_scale": jnp.float32(0.0)}):
        np.testing.assert_array_equal(both(params, cond | more), u)
    params["control"] = toys.random_params(model, seed=3)["control"]
    np.testing.assert_array_equal(both(params, cond | wanted | {"control_scale": jnp.zeros(len(t))}), u)
    np.testing.assert_array_equal(both(params, cond), u)
    full, half = (both(params, cond | wanted | {"control_scale": jnp.float32(scale)}) for scale in (1.0, 0.5))
    by_row = both(params, cond | wanted | {"control_scale": jnp.array([1.0, 0.5] * 2)})
    assert np.abs(full - u).max() > 0.1 and np.abs(full - half).max() > 0.1
    np.testing.assert_allclose(by_row, np.where(np.arange(4)[:, None, None, None] % 2, half, full), rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_its_derivative_is_that_of_the_whole():
    trunk, model = wrapped(count=1, depth=2)
    params, (x, t, s, cond) = toys.random_params(model, size=0.1), toys.picture_inputs(trunk, rows=1)
    cond |= {"picture": jax.random.normal(jax.random.key(9), x.shape)}
    v = jax.random.normal(jax.random.key(5), x.shape)

    def velocity(x, t, s):
        return model.velocity(params, x, t, s, cond)

    def along(h):
        return velocity(x + h * v, t + h, s)[0]

    u, du, _ = jax.jit(lambda: total_derivative(velocity, x, t, s, v))()
    h = 1e-2
    np.testing.assert_allclose(du, (along(h) - along(-h)) / (2 * h), rtol=0.02, atol=0.02 * float(jnp.abs(du).max()))


@pytest.mark.slow
def test_the_gradient_reaches_the_new_part_alone():
    trunk, model = wrapped(count=1, depth=2)
    params, (x, t, s, cond) = toys.random_params(model, size=0.2), toys.picture_inputs(trunk, rows=2)
    cond |= {"picture": jax.random.normal(jax.random.key(9), x.shape)}
    found = jax.jit(jax.grad(lambda p: jnp.sum(jnp.square(model.velocity(p, x, t, s, cond)[0]))))(params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(found["trunk"]))
    silent = {name for name, leaf in tree.paths(found["control"]).items() if not np.any(leaf)}
    assert silent <= {"blocks/attention/k/bias", "blocks/cross/k/bias"}, silent  # softmax does not see them


@pytest.mark.slow
def test_trunk_and_controlnet_of_diffusers_together():
    """What its transformer answers under its ControlNet, from one call of ours."""
    (_, o, trunk), (_, its, beside) = (port.load(FIXTURES / name) for name in ("sana_control_trunk", "sana_control"))
    recorded = port.recording(FIXTURES / "sana_control_trunk")
    o, its = o._replace(time_scale=1.0), its._replace(time_scale=1.0)
    given = dict(np.load(FIXTURES / "sana_control" / "io.npz"))
    model = controlnet.controlled(sana.build(o, o.text_width), controlnet.build(its, its.text_width), its.depth)
    x, picture = (given[f"in_{name}"].transpose(0, 2, 3, 1) for name in ("hidden_states", "controlnet_cond"))
    t, features = given["in_timestep"].astype(np.float32), given["in_encoder_hidden_states"]
    mask = given["in_encoder_attention_mask"] > 0 if "in_encoder_attention_mask" in given else np.ones(features.shape[:2], bool)
    cond = {"features": features, "mask": mask, "picture": picture, "control_scale": np.float32(given["in_conditioning_scale"])}
    u = jax.jit(lambda p: model.velocity(p, x, t, t, cond)[0])({"trunk": trunk, "control": beside})
    name = "out_controlled" if "out_controlled" in recorded else "out_sample"
    want = recorded[name].transpose(0, 2, 3, 1)
    assert np.abs(u - want).max() <= 2e-5 * np.abs(want).max()


# Training


def two_steps(folder, *more):
    """(config, models, states before and after two steps of flow matching from a plain network, metrics)."""
    flags = tiny.arguments("sprint_teacher_shapes", folder)
    place = tiny.teacher(folder, flags, "trunk")
    config = configs.load([*flags, *more, f"--config.init_from={place}"])[0]
    models, optimizers = training_models(config), make_optimizers(config)
    mesh = meshes.make_mesh(config.mesh)
    abstract = jax.eval_shape(lambda: begin.init_state(models, optimizers, 0))
    state = begin.first_state(config, models, optimizers, meshes.shard_rule(abstract, mesh)[0])[0]
    states, rng = [jax.device_get(state)], np.random.default_rng(0)
    tokens = np.repeat(models["text"].tokenize(["a red ring"]), 8, 0)
    batch = {"x0": rng.uniform(-1, 1, (8, 16, 16, 3)).astype(np.float32), "index": np.arange(8, dtype=np.int32), "cond": {"tokens": tokens}}
    step = make_train_step(config, models, optimizers).lower(state, {}, batch).compile()
    for _ in range(2):
        state, metrics = step(state, {}, batch)
        states.append(jax.device_get(state))
    return config, models, states, metrics, batch


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return two_steps(tmp_path_factory.mktemp("run"), *FLOW)


def moved(before, after):
    after = tree.paths(after)
    return {name for name, leaf in tree.paths(before).items() if not np.array_equal(leaf, after[name])}


@pytest.mark.slow
def test_a_step_moves_the_controlnet_and_no_bit_of_the_trunk(run):
    _, _, (first, _, last), metrics, _ = run
    trunk, control = first.params["net"]["trunk"], first.params["net"]["control"]
    np.testing.assert_array_equal(control["embed"]["patches"]["kernel"], trunk["embed"]["patches"]["kernel"])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:1]), control["blocks"], trunk["blocks"])
    changed = moved(first.params, last.params)
    assert changed and all(name.startswith("net/control/") for name in changed)
    assert {"net/control/out/kernel", "net/control/in/kernel", "net/control/blocks/mlp/out/kernel"} <= changed
    assert all(name.startswith("main/net/control/") for name in moved(first.ema, last.ema))
    assert not [name for name in tree.paths(last.opt) if "trunk" in name or name.startswith("text/")]
    assert 0 < metrics["grad_norm/net"] < np.inf and "grad_norm/text" not in metrics


@pytest.mark.slow
def test_rows_without_edges_see_nothing(run):
    net = run[1]["net"]
    picture = np.asarray(shown(net, run[4]["x0"], np.arange(8) < 2))
    assert not picture[:2].any() and picture[2:].any((1, 2, 3)).all()
    np.testing.assert_allclose(picture[2:], (np.asarray(edges(run[4]["x0"]))[2:] - 0.78) / 0.4, rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_a_run_draws_with_edges_and_is_measured(tmp_path, capsys, monkeypatch):
    """From the command to the figure."""
    monkeypatch.setattr("anystep.cache.use_compile_cache", lambda: None)
    flags = [*tiny.arguments("sprint_teacher_shapes", tmp_path), *FLOW]
    place = tiny.teacher(tmp_path, tiny.arguments("sprint_teacher_shapes", tmp_path), "trunk")
    run = tmp_path / "run"
    flags += [f"--config.init_from={place}", "--workdir", str(run), "--config.train.sample_every=6"]
    assert not train.main(flags)
    model, params = api.load(run / "model")
    _, plain = api.load(place)
    assert not moved(plain["net"], params["net"]["trunk"]) and not moved(plain["text"], params["text"])
    picture, out = tmp_path / "picture.png", tmp_path / "grid.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).save(picture)
    sample.main(["--model", str(run), "--prompt", "a red ring", "--steps", "1", "--control_from", str(picture), "--out", str(out)])
    asked = ["--prompts", "12", "--steps", "1", "--split", "dev"]
    bench.main(["--model", str(run), "--against", str(place), *asked, "--out", str(tmp_path / "record.json")])
    rows = json.loads((tmp_path / "record.json").read_text())["result"]["rows"]
    assert [(row["steps"], row["scale"]) for row in rows] == [(1, None), (1, 0.0), (1, 0.5), (1, 1.0)]
    assert all(0 <= row[name] <= 1 and row[f"{name}_se"] >= 0 for row in rows for name in ("outline", "area")) and rows[1]["more"] == 0.0
    assert "outline" in capsys.readouterr().out


def test_foregrounds_and_their_outlines_overlap():
    """Two blocks of 8 x 16 pixels, four rows apart: half of each is shared, and of the 44 pixels of each outline the sides of that half."""
    paper, red = np.full((2, 16, 16, 3), 250, np.uint8), (218, 44, 56)
    a, b = paper.copy(), paper.copy()
    a[0, :8], b[0, 4:12] = red, red
    assert foreground(a[0]).sum() == 128
    a, b = (np.stack([foreground(picture) for picture in side]) for side in (a, b))
    np.testing.assert_allclose(bench.overlap(a, b), [64 / 192, 1.0])
    np.testing.assert_allclose(bench.overlap(bench.outline(a), bench.outline(b)), [8 / 80, 1.0])


@pytest.mark.slow
def test_a_controlnet_begins_with_a_student_that_is_told_its_scale(tmp_path):
    """A teacher's network would get an embedding of the scale that says nothing, and keep it."""
    place = tiny.teacher(tmp_path, tiny.arguments("sprint_teacher_shapes", tmp_path), "plain")
    config = configs.load([*tiny.arguments("sprint_control_shapes", tmp_path), f"--config.init_from={place}"])[0]
    models = training_models(config, teacher=teachers.model_of(config))
    abstract = jax.eval_shape(lambda: begin.init_state(models, make_optimizers(config), 0))
    with pytest.raises(UserError, match=r"init_from = .*: has no net/embed/guidance/\*, which config\.model\.frozen would leave"):
        begin.first_state(config, models, make_optimizers(config), meshes.shard_rule(abstract, meshes.make_mesh(config.mesh))[0])


# Drawing


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """(model, params) of a config with a ControlNet and random weights, and of its trunk."""
    folder = tmp_path_factory.mktemp("drawn")
    model, plain = (api.pipeline(tiny.config("sprint_teacher_shapes", folder, *more)) for more in (FLOW, ()))
    params = {"net": toys.random_params(model.net, size=0.1), "text": toys.random_params(model.text, size=0.1)}
    return (model, params), (plain, params | {"net": params["net"]["trunk"]})


@pytest.mark.slow
def test_drawing_follows_a_picture_and_scale_0_does_not(drawn):
    (model, params), plain = drawn
    prompts, picture = ["a red ring", "a blue square"], np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    alone = api.sample_array(*plain, prompts, 2)
    np.testing.assert_allclose(api.sample_array(model, params, prompts, 2), alone, atol=1e-5)
    np.testing.assert_allclose(api.sample_array(model, params, prompts, 2, control=picture, control_scale=0.0), alone, atol=1e-5)
    followed = api.sample_array(model, params, prompts, 2, control=picture)
    assert np.abs(followed - alone).max() > 1e-2
    both = np.stack([picture, np.zeros_like(picture)])
    found = api.sample_array(model, params, prompts, 2, control=both)
    np.testing.assert_allclose(found[0], followed[0], atol=1e-5)
    assert np.abs(found[1] - followed[1]).max() > 1e-3


def test_pictures_that_cannot_be_followed_are_refused(drawn, tmp_path):
    (model, params), plain = drawn
    picture = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(UserError, match="the model has no ControlNet"):
        api.sample(*plain, ["a"], control=picture)
    for wrong in (picture[:8], np.stack([picture] * 3), picture.astype(np.float32), picture[..., :1]):
        with pytest.raises(UserError, match=r"control: .* allowed uint8 \[16, 16, 3\] or \[2, 16, 16, 3\]"):
            api.sample(model, params, ["a", "b"], control=wrong)
    with pytest.raises(UserError, match="control_scale"):
        api.sample(model, params, ["a"], control=picture, control_scale="much")
    argv = ["--model", "nowhere", "--prompt", "a"]
    for more, said in (
        (["--control", "a.png", "--control_from", "b.png"], "one picture is followed"),
        (["--control_scale", "2"], "is for --control or"),
        (["--control", "a.png", "--control_scale", "11"], "-10..10"),
        (["--control", str(tmp_path / "none.png")], "not a readable picture"),
    ):
        with pytest.raises(UserError, match=said):
            sample.main(argv + more)


# Pipelines of others


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("pipeline") / "sana"
    shutil.copytree(FIXTURES / "pipeline_sana_flow", folder, ignore=shutil.ignore_patterns("drawn.npz", "cases.json"))
    shutil.copytree(FIXTURES / "pipeline_sana_control" / "controlnet", folder / "controlnet")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "SanaControlNetPipeline", "controlnet": ["diffusers", "SanaControlNetModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.slow
def test_diffusers_pipeline_draws_the_same(pipeline):
    """Latents of its SanaControlNetPipeline: the picture through the autoencoder, guidance, scale (fixtures/make_pipeline_control.py)."""
    model, params = api.load(pipeline)
    recorded = dict(np.load(FIXTURES / "pipeline_sana_control" / "drawn.npz"))
    prompts = json.loads((FIXTURES / "pipeline_sana_flow" / "cases.json").read_text())["prompts"]
    pictures, noise = recorded["in_picture"], recorded["in_noise"].transpose(0, 2, 3, 1)
    cases = {"two": (2, 4.5, pictures, 0.7), "one": (1, 1.0, pictures[0], 1.0)}
    for name, (steps, guide, control, scale) in cases.items():
        latents = []

        def decode(params, z, latents=latents):
            latents.append(np.asarray(z))
            return model.decode(params, z)

        how = {"noise": noise, "control": control, "control_scale": scale}
        api.sample_array(model._replace(decode=decode), params, prompts, steps, guide=guide, size=(32, 32), **how)
        want = recorded[f"out_latent_{name}"]
        error = np.abs(np.concatenate(latents).transpose(0, 3, 1, 2) - want).max() / np.abs(want).max()
        print(name, error)
        assert error <= 2e-5


def test_a_controlnet_that_does_not_fit_is_one_line(pipeline, tmp_path):
    folder = shutil.copytree(pipeline, tmp_path / "sana")
    shutil.rmtree(folder / "controlnet")
    shutil.copytree(FIXTURES / "sana_control", folder / "controlnet")
    with pytest.raises(UserError, match=r"sana/controlnet: has \w+ = \d+, transformer/ \d+"):
        api.load(folder)


# Configs


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"model.frozen": True}, "nothing would be trained"),
        ({"objective.control_dropout": 0.1}, r"0 without config\.model\.control"),
        ({"model.control": 2}, r"model\.control = 2 .*< config\.model\.depth = 2"),
        ({"model.control": 1, "model.rank": 1}, "one addition at a time"),
        ({"model.rank": 1}, r"model\.frozen = False .*True for config\.model\.rank"),
    ],
)
def test_additions_that_make_no_sense_are_refused(fields, said, tmp_path):
    with pytest.raises(UserError, match=said):
        tiny.config("sprint_teacher_shapes", tmp_path, *(f"--config.{name}={value}" for name, value in fields.items()))


def test_other_networks_and_stores_are_refused(tmp_path):
    with pytest.raises(UserError, match="edges are taken from pictures"):
        tiny.config("store", tmp_path, "--config.model.control=1")
    with pytest.raises(UserError, match=r"0 for config\.model\.net = 'mlp'"):
        tiny.config("smoke", tmp_path, "--config.model.control=1")


def test_a_trunk_that_nobody_trained_is_refused(tmp_path):
    config = tiny.config("sprint_teacher_shapes", tmp_path, *FLOW)
    with pytest.raises(UserError, match=r"config\.init_from = '': must be a model"):
        begin.check(config, tmp_path / "run", [], ())


def test_a_teacher_without_edges_is_refused():
    """The best answer to its losses does not depend on them."""
    config = configs.load(["--config", "sprint_control_shapes"])[0]
    plain, seeing = (configs.load(["--config", "sprint_teacher_shapes", *more])[0] for more in ((), FLOW))
    assert training_models(config, teacher=build_models(seeing)["net"])["net"].controls
    with pytest.raises(UserError, match="nothing would teach this one to follow a picture"):
        training_models(config, teacher=build_models(plain)["net"])
