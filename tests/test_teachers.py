"""Teachers and beginnings: what is found in a folder, what must agree, what is new, and that nothing of a teacher is in a checkpoint."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

import anystep
from anystep import api, begin, checkpoint, ckpt, logs, stores, teachers, train, weights
from anystep import config as configs
from anystep.errors import UserError
from anystep.nets.build import training_models
from anystep.state import init_state
from anystep.train_step import abstract_batch, abstract_frozen, make_optimizers, make_train_step
from anystep.tree import count, paths
from anystep.watch import Watch
from anystep.weights import pipelines, port

FIXTURES = Path(__file__).parent / "fixtures"


def test_parameters_of_the_released_students():
    """Without a store and without a teacher: the published counts, and heads of 53 and 201 million."""
    for name, net, heads in (("sana_sprint_600m", 593_501_216, 53.1e6), ("sana_sprint_1600m", 1_610_237_472, 201e6)):
        config = configs.load(["--config", name])[0]
        sizes = {
            role: count(jax.eval_shape(model.init, jax.random.key(0))) for role, model in training_models(config).items() if role != "text"
        }
        assert sizes["net"] == net and sizes["discriminator"] == pytest.approx(heads, rel=0.01) and sizes["weighting"] < 1000
        assert sizes["teacher"] < net


def test_a_flux_student_has_the_shapes_of_flux():
    config = configs.load(["--config", "sprint_flux"])[0]
    models = training_models(config)
    assert count(jax.eval_shape(models["net"].init, jax.random.key(0))) == 11_901_408_320  # FLUX dev
    assert models["net"].told == 1.0 and models["net"].depth == 57


@pytest.fixture
def shapes(tmp_path):
    """A tiny config of sprint_shapes, its teacher's folder beside it."""
    return tiny.config("sprint_shapes", tmp_path)


def changed(config, **values):
    return configs.from_dict(configs.flatten(config.to_dict()) | {name.replace("__", "."): value for name, value in values.items()})


def test_a_teacher_is_known_by_its_digest(shapes, tmp_path):
    pinned = begin.pinned(shapes)
    assert len(pinned.objective.teacher.digest) == 64 and begin.pinned(pinned) == pinned
    assert set(teachers.load(pinned)) == {"net", "text"}
    (tmp_path / "teacher" / "report.json").write_text("{}")  # what evaluating it leaves
    teachers.load(pinned)
    saved, params = weights.load_folder(tmp_path / "teacher")
    params["net"]["head"]["table"] += 1
    weights.save_folder(tmp_path / "teacher", saved, params)
    with pytest.raises(UserError, match=r"config\.objective\.teacher\.folder = .* holds another network"):
        teachers.load(pinned)


def test_no_convolution_is_differentiated_in_a_branch(shapes):
    """There it is slow on CPU: neither in the student, nor in the teacher whose blocks the heads read."""

    def convolutions(config):
        found = {}
        for role, model in training_models(config, teacher=teachers.model_of(config)).items():
            if role in ("net", "teacher"):
                params, batch = jax.eval_shape(model.init, jax.random.key(0)), abstract_batch(config, training_models(config))
                features = np.zeros((4, config.model.text.length, config.model.text.width), np.float32)
                cond = {"features": features, "mask": features[..., 0] == 0, "guidance": np.ones(4, np.float32)}
                x, t = np.zeros((4, *batch["x0"].shape[1:]), np.float32), np.ones(4, np.float32)
                found[role] = str(jax.make_jaxpr(model.velocity)(params, x, t, t, cond)).count("conv_general_dilated[")
        return found

    assert convolutions(shapes) == {"net": 0, "teacher": 0}
    assert min(convolutions(changed(shapes, objective__adversarial__share=0)).values()) > 0


@pytest.mark.parametrize(
    "values, says",
    [
        (dict(objective__teacher__folder=""), r"teacher\.folder = ''"),
        (dict(objective__teacher__folder="/nonexistent"), "none of a model folder"),
        (dict(model__text__width=32), r"config\.model\.text\.width = 32: the teacher's is 16"),
        (dict(data__size=32), r"config\.data\.size = 32: the teacher's pictures, .*, are of 16"),
        (dict(model__scale=0.5), r"a scale of 0\.4, the config's 0\.5"),
        (dict(model__control=1, objective__control_dropout=0.1), r"control_dropout = 0\.1: must be 0, because the teacher"),
        (dict(objective__adversarial__blocks=(0, 2)), r"adversarial\.blocks = \(0, 2\): allowed are 0 to 1"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(shapes, values, says):
    with pytest.raises(UserError, match=says):
        config = changed(shapes, **values)
        teachers.check(config)
        training_models(config, teacher=teachers.model_of(config))


@pytest.mark.parametrize("field, value, says", [("share", 0, "no velocity to teach"), ("weight", 0.0, "no velocity to teach")])
def test_one_that_only_jumps_is_no_teacher(shapes, tmp_path, field, value, says):
    saved, params = weights.load_folder(tmp_path / "teacher")
    saved["objective"]["flow_matching"][field] = value
    weights.save_folder(tmp_path / "teacher", saved, params)
    with pytest.raises(UserError, match=says):
        teachers.check(shapes)


def test_one_that_never_drew_without_a_prompt_is_not_guided(shapes, tmp_path):
    saved, params = weights.load_folder(tmp_path / "teacher")
    saved["objective"]["prompt_dropout"] = 0.0
    weights.save_folder(tmp_path / "teacher", saved, params)
    with pytest.raises(UserError, match=r"teacher\.scales = .*: must be 1"):
        teachers.check(shapes)
    teachers.check(changed(shapes, objective__teacher__scales=(1.0,)))


def test_points_do_not_begin_with_pictures(tmp_path):
    config = tiny.config("smoke", tmp_path, f"--config.init_from={FIXTURES / 'pipeline_sana_flow'}")
    with pytest.raises(UserError, match=r"init_from = .*: draws pictures, config\.model\.net = 'mlp' draws points"):
        teachers.beginning(config, None)


def test_a_beginning_has_the_width_of_the_config(shapes, tmp_path):
    with pytest.raises(UserError, match=r"init_from = .*: has width = 16, the config 32"):
        teachers.beginning(changed(shapes, model__width=32, init_from=str(tmp_path / "teacher")), None)


def test_a_student_that_begins_with_noise_is_warned_of(shapes, tmp_path, capsys):
    begin.check(changed(shapes, init_from=""), tmp_path / "run", begun=[], also=())
    assert capsys.readouterr().err.startswith("WARNING: config.init_from = ''")


@pytest.mark.slow
def test_a_network_of_another_text_encoder_is_no_beginning(shapes, tmp_path):
    saved, params = weights.load_folder(tmp_path / "teacher")
    weights.save_folder(tmp_path / "other", saved, params | {"text": jax.tree.map(lambda leaf: leaf + 1, params["text"])})
    config = changed(shapes, init_from=str(tmp_path / "other"))
    models = training_models(config, teacher=teachers.model_of(config))
    with pytest.raises(UserError, match=r"init_from = .*: learned to read the features of another text encoder"):
        first(config, models, make_optimizers(config))


@pytest.mark.slow
def test_a_student_begins_as_its_teacher_with_a_living_embedding_of_the_scale(shapes):
    models, optimizers = training_models(shapes, teacher=teachers.model_of(shapes)), make_optimizers(shapes)
    state = first(shapes, models, optimizers)
    its = teachers.load(shapes)["net"]
    for name, leaf in paths(its).items():
        np.testing.assert_array_equal(paths(state.params["net"])[name], leaf)
    new = paths(state.params["net"]["embed"]["guidance"])
    assert np.any(new["in/kernel"]) and not np.any(new["out/kernel"])
    with pytest.raises(UserError, match="has heads = 2, the config 4"):
        wrong = changed(shapes, model__heads=4)
        teachers.beginning(wrong, None)


def first(config, models, optimizers):
    return begin.first_state(config, models, optimizers, on_one_device(config, models, optimizers))[0]


def on_one_device(config, models, optimizers):
    abstract = jax.eval_shape(lambda: init_state(models, optimizers, 0))
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda _: one, abstract)


SANA = FIXTURES / "pipeline_sana_flow"  # without q/k norms, its clock counts 1,000 steps


def beside_sana(folder, *more):
    """A config whose network is that of the SANA in the fixtures but for q/k norms, a dense clock and a second time."""
    options = teachers.peer_of(SANA / "transformer")[1]
    tiny.store(folder / "store", width=options.text_width)
    asked = {name: getattr(options, name) for name in ("width", "depth", "heads", "cross_heads", "patch", "mlp_ratio", "positions")}
    asked |= {"attention": "linear", "ffn": "conv", "stem": 0, "predicts": "v", "time_frequency": 1.0, "time_span": 1e4, "dtype": "float32"}
    flags = ["--config", "store", *(f"--config.model.{name}={value}" for name, value in asked.items()), "--config.data.batch=8", *more]
    return configs.load([*flags, f"--config.data.path={folder / 'store'}", "--config.data.dev_share=0.3"])[0]


@pytest.mark.slow
def test_a_sana_of_others_is_where_a_teacher_begins(tmp_path):
    """Its network alone is read; q/k norms and second time are new, and what must agree is named."""
    config = beside_sana(tmp_path, f"--config.init_from={SANA}")
    models, optimizers = training_models(config), make_optimizers(config)
    state, new = begin.first_state(config, models, optimizers, on_one_device(config, models, optimizers))
    assert all(part in new for part in ("second_time", "q_norm", "a clock that counts to 1 and not to 1000"))
    its, mine = paths(port.load(SANA / "transformer")[2]), paths(state.params["net"])
    for name, leaf in its.items():
        np.testing.assert_array_equal(mine[name], leaf)
    assert {name.split("/")[-2] for name in set(mine) - set(its)} == {"in", "out", "q_norm", "k_norm"}
    assert all("second_time" in name or "_norm" in name for name in set(mine) - set(its))
    np.testing.assert_array_equal(paths(state.ema["main"]["net"])["head/table"], its["head/table"])
    for field, says in (
        ("heads=1", "has heads = 2, the config 1"),
        ("attention=softmax", "has attention = 'linear', the config 'softmax'"),
    ):
        wrong = beside_sana(tmp_path, f"--config.init_from={SANA}", f"--config.model.{field}")
        with pytest.raises(UserError, match=rf"config\.init_from = .* {says}"):
            first(wrong, training_models(wrong), make_optimizers(wrong))


@pytest.mark.slow
def test_a_sana_of_others_teaches(tmp_path):
    """As its own pipeline answers, its clock of 1,000 steps included; heads look at its blocks."""
    jumps = ("share=1", "velocity=teacher", "start=0", "nodes=0", "weighting=none", "guidance=1.0", "at_noise=0.0")
    flags = [*(f"--config.objective.consistency.{field}" for field in jumps), "--config.objective.flow_matching.share=0"]
    flags += [f"--config.objective.teacher.folder={SANA}", "--config.objective.adversarial.share=1", "--config.model.second_time=False"]
    config = begin.pinned(beside_sana(tmp_path, *flags, "--config.objective.adversarial.blocks=0,1"))
    teachers.check(config)
    teacher, params = teachers.model_of(config), teachers.load(config)["net"]
    x, t = np.ones((1, 8, 8, 4), np.float32), np.array([0.3], np.float32)
    cond = {"features": np.ones((1, 3, 16), np.float32), "mask": np.ones((1, 3), bool)}
    pipeline = pipelines.read(SANA)
    answers = [
        np.asarray(model.velocity(weights, x, t, t, cond)[0])
        for model, weights in ((teacher, params), (pipeline.net, pipeline.params["net"]))
    ]
    np.testing.assert_array_equal(*answers)
    assert "text" in teachers.encoders(config) and teacher.ends == "none" and teacher.told == 0.0
    models, optimizers = training_models(config, teacher=teacher), make_optimizers(config)
    state = jax.eval_shape(lambda: init_state(models, optimizers, 0))
    assert {role for role in models if role not in optimizers} == {"text", "teacher"}
    after, metrics = jax.eval_shape(
        make_train_step(config, models, optimizers), state, abstract_frozen(models, optimizers), abstract_batch(config, models)
    )
    assert jax.tree.map(lambda a: a.shape, after) == jax.tree.map(lambda a: a.shape, state) and "loss/discriminator" in metrics
    with pytest.raises(UserError, match=r"text\.encoder = 'hashed': must be stored"):
        teachers.check(changed(config, model__text__encoder="hashed"))


@pytest.mark.long
def test_a_student_of_two_kinds_of_steps_trains_resumes_and_stands_alone(tmp_path):
    """Its checkpoint holds nothing of the teacher, its model folder draws without it."""
    flags = tiny.arguments("sprint_shapes", tmp_path, "--workdir", str(tmp_path / "run"), "--config.train.steps=6")
    flags += ["--config.objective.consistency.weighting=learned"]
    assert not train.main(flags)
    names = paths(checkpoint.saved_tree(tmp_path / "run", 6))
    assert {name.split("/")[1] for name in names if name.startswith("params/")} == {"net", "weighting", "discriminator"}
    assert not any("teacher" in name for name in names)
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["objective"]["teacher"]["digest"] == teachers.digest_at(tmp_path / "teacher")
    a, p = anystep.load(tmp_path / "run")
    drawn = anystep.sample(a, p, ["a red ring"], steps=2, guide=2.5)
    other = anystep.sample(a, p, ["a red ring"], steps=2, guide=1.5)
    (tmp_path / "teacher").rename(tmp_path / "gone")
    b, q = anystep.load(tmp_path / "run" / "model")
    np.testing.assert_array_equal(anystep.sample(b, q, ["a red ring"], steps=2, guide=2.5), drawn)
    assert api.drawing_of(a.config).told == 0.1 and np.any(drawn != other)
    c, r = anystep.load(tmp_path / "run")  # with the text encoder of its model folder
    np.testing.assert_array_equal(anystep.sample(c, r, ["a red ring"], steps=2, guide=2.5), drawn)
    assert not ckpt.main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")])
    d, s = anystep.load(tmp_path / "out")
    np.testing.assert_array_equal(anystep.sample(d, s, ["a red ring"], steps=2, guide=2.5), drawn)
    (tmp_path / "run" / "model").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="teacher"):
        anystep.load(tmp_path / "run")


@pytest.mark.long
def test_what_is_drawn_before_the_jumps_has_no_guidance_that_was_never_learned(shapes, tmp_path):
    alone = dict(objective__adversarial__share=0, objective__consistency__start=4, objective__flow_matching__share=1, eval__steps=(1,))
    config = changed(shapes, model__second_time=True, model__guidance=False, eval__prompts=2, train__sample_every=3, **alone)
    models = training_models(config, teacher=teachers.model_of(config))
    params = {role: models[role].init(jax.random.key(0)) for role in ("net", "text")}
    Watch(config, tmp_path, logs.JsonlWriter(tmp_path / "metrics.jsonl"))(3, params)
    assert (tmp_path / "samples" / "3.png").exists()


def test_a_store_may_hold_shorter_prompts_than_the_config_allows(tmp_path):
    flags = tiny.arguments("sana_sprint_600m", tmp_path)
    configs.load([*flags, "--config.data.holds=16,16,4,300,8,0"])
    for holds in ("16,16,4,3,8,0", "16,16,5,300,8,0"):
        with pytest.raises(UserError, match=r"config\.data\.holds = .*: must be .*\(16, 16, 4, 4, 8, 0\), tokens at most"):
            configs.load([*flags, f"--config.data.holds={holds}"])


def test_a_store_of_other_encoders_than_the_teachers_is_refused(tmp_path):
    config, theirs = tiny.config("sana_sprint_600m", tmp_path), tmp_path / "theirs"
    tiny.store(theirs)
    saved, params = weights.load_folder(tmp_path / "teacher")
    weights.save_folder(tmp_path / "teacher", saved | {"data": saved["data"] | {"path": str(theirs)}}, params)
    teachers.check(config)
    index = json.loads((theirs / "index.json").read_text())
    index["made_with"]["autoencoder"] = "another"
    (theirs / "index.json").write_text(json.dumps(index | {"key": stores.key_of({k: v for k, v in index.items() if k != "key"})}))
    with pytest.raises(UserError, match=r"config\.data\.path = .*: was made with another autoencoder than the teacher's store"):
        teachers.check(config)
