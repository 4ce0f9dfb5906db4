"""Every shipped config, cut to test size: trained a few steps, saved, restored, sampled; its step and its sampler lowered for tpu and
cuda. And the choices of net, path and objectives that the rules accept: each can be differentiated."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax import export

import anystep
from anystep import checkpoint, logs, train
from anystep.api import pipeline
from anystep.data import make_stream
from anystep.errors import UserError
from anystep.nets.build import build_models, training_models
from anystep.state import init_state
from anystep.teachers import model_of
from anystep.train_step import abstract_batch, abstract_frozen, make_loss, make_optimizers, make_train_step
from anystep.types import Roles

OWN = [name for name in tiny.NAMES if name not in tiny.ALIKE]
SHIPPED = [pytest.param(name, (), marks=pytest.mark.long, id=name) for name in OWN]
PLACES = [pytest.param(*place, marks=pytest.mark.slow) for place in (("shapes", "cuda"), ("sprint_shapes", "tpu"))]
PLACES += [pytest.param(name, "tpu", marks=pytest.mark.long) for name in OWN if name not in ("smoke", "sprint_shapes")]


@pytest.mark.slow
@pytest.mark.parametrize("name, more", [pytest.param("pictures", tiny.FLOW_ALONE, id="pictures, light"), *SHIPPED])
def test_config_trains_resumes_and_draws(name, more, tmp_path):
    workdir = tmp_path / "run"
    flags = tiny.arguments(name, tmp_path, *more, "--config.train.sample_every=6", "--workdir", str(workdir))
    assert not train.main(flags)
    rows = logs.read_rows(workdir / "metrics.jsonl")
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 6 and np.isfinite(losses).all()
    assert checkpoint.committed_steps(workdir) == [1, 3, 6]
    assert (workdir / "samples" / "6.png").stat().st_size > 500
    (workdir / "checkpoints" / "6").rename(tmp_path / "six")  # as if the run had been killed before its last save
    (workdir / "model" / "weights.safetensors").rename(tmp_path / "weights")
    train.main(flags)
    assert (workdir / "model" / "weights.safetensors").read_bytes() == (tmp_path / "weights").read_bytes()

    (a, p), (b, q) = (anystep.load(folder) for folder in (workdir, workdir / "model"))
    jax.tree.map(np.testing.assert_array_equal, p, q)
    assert a.config == b.config
    if name != "smoke":
        pictures = anystep.sample(b, q, ["a red ring", ""], steps=2)
        assert pictures.shape == (2, 16, 16, 3) and pictures.dtype == np.uint8


@pytest.mark.parametrize("name, platform", [("smoke", "tpu"), *PLACES])
def test_step_and_sampler_lower_for_an_accelerator(name, platform, tmp_path):
    config = tiny.config(name, tmp_path)
    models, optimizers = training_models(config, teacher=model_of(config)), make_optimizers(config)
    state, frozen = jax.eval_shape(lambda: init_state(models, optimizers, 0)), abstract_frozen(models, optimizers)
    batch = abstract_batch(config, models)
    export.export(make_train_step(config, models, optimizers), platforms=[platform])(state, frozen, batch)

    model = pipeline(config)
    tokens = batch["cond"]["tokens"]
    null = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype), tokens)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 8))
    words = {
        "sampler": config.eval.sampler,
        "ask": config.eval.ask,
        "energy_preserving": True,
        "jumps": True,
        "guide": None,
        "steer": None,
        "guided": model.drawing.told == 0.0,
        "told": model.drawing.told,
        "whole": model.drawing.whole,
        "shape": model.net.shape,
        "noise": None,
    }

    def draw(params, tokens, null, keys):
        times = np.linspace(1, 0, 3, dtype=np.float32)
        return model.draw(params, tokens, null, keys, times, 2.0, (0.0, 1.0), model.drawing.ends(times), 1.0, **words)

    params = {role: (state.params | frozen)[role] for role in ("net", "text")}
    export.export(jax.jit(draw), platforms=[platform])(params, tokens, null, keys)


@pytest.mark.parametrize("name", tiny.NAMES)
def test_the_data_have_unit_deviation_inside(name, tmp_path):
    """config.model.shift and scale against the data themselves: within a fifth, so that sigma_data = 1 holds in every formula."""
    if name == "pictures":
        pytest.skip("the user's own pictures; the config's figures are those of icons on white")
    from anystep import config as configs

    config = tiny.config(name, tmp_path) if name in tiny.STORES else configs.load(["--config", name])[0]
    stream = make_stream(config.data, build_models(config)["text"].tokenize, 0, 256)
    x = (next(stream)["x0"] - config.model.shift) / config.model.scale
    assert abs(x.mean()) < 0.2 and 0.8 < x.std() < 1.25


MIXES = [(*shares, at_zero) for shares in itertools.product((0, 1), repeat=3) for at_zero in (1.0, 0.0, 0.5) if shares[2] or at_zero == 1.0]
JUMPS = {"derivative": (0, 1, "data", 1.0, "adaptive"), "step": (4, 2, "ema", 2.0, "l1")}
FIELDS = ("nodes", "hops", "velocity", "guidance", "weighting")


def accepted(name, folder):
    """(what was chosen, config) of every choice of net, path and objectives that the rules let pass."""
    for net, path, (f, e, c, at_zero), jumps in itertools.product(("sana", "mlp"), ("linear", "trig"), MIXES, JUMPS):
        if jumps == "step" and not c:
            continue
        asked = {"model.net": net, "path.name": path, "model.depth": 1, "model.text.depth": 0, "data.batch": 6}
        asked |= {"objective.flow_matching.share": f, "objective.self_evaluation.share": e, "objective.consistency.share": c}
        asked |= {"objective.consistency.at_zero": at_zero, "objective.consistency.start": 0}
        asked |= {"objective.consistency.s_min": 0.25 if 0 < at_zero < 1 else 0.0}
        asked |= {"objective.self_evaluation.auxiliary_k": 0.9 if jumps == "step" else 1.0}
        asked |= {f"objective.consistency.{name}": value for name, value in zip(FIELDS, JUMPS[jumps], strict=True)}
        if not (f or e) and at_zero == 1:  # jumps to 0 alone cannot be asked for less
            asked |= {"eval.sampler": "restart", "eval.ask": "zero"}
        try:
            yield (
                (net, path, f, e, c, at_zero, jumps),
                tiny.config(name, folder, *(f"--config.{field}={value}" for field, value in asked.items())),
            )
        except UserError:
            pass


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smoke", pytest.param("shapes", marks=pytest.mark.long)])  # pictures differs in its data only
def test_what_the_rules_accept_can_be_differentiated(name, tmp_path):
    found = dict(accepted(name, tmp_path))
    net = "mlp" if name == "smoke" else "sana"
    alone = {("linear", 1, 0, 0, 1.0), ("trig", 1, 0, 0, 1.0), ("linear", 0, 1, 0, 1.0), ("linear", 0, 0, 1, 1.0)}
    along_data = alone | {("linear", 0, 0, 1, 0.0), ("linear", 1, 1, 1, 1.0)}
    assert {(net, *chosen, "derivative") for chosen in along_data} | {
        (net, "linear", 1, 1, 1, 1.0, "step"),
        (net, "linear", 1, 0, 1, 0.5, "step"),
        (net, "linear", 1, 0, 1, 0.5, "derivative"),
    } <= set(found)
    for chosen, config in found.items():
        models = build_models(config)
        params = {role: jax.eval_shape(model.init, jax.random.key(0)) for role, model in models.items()}
        roles = Roles(params, params, {}, {})
        gradient = jax.grad(make_loss(config, models), has_aux=True)
        got, (metrics, _) = jax.eval_shape(gradient, params, roles, abstract_batch(config, models), jnp.int32(0))
        assert jax.tree.map(lambda a: a.shape, got) == jax.tree.map(lambda a: a.shape, params), chosen
        assert metrics["loss"].shape == (), chosen
