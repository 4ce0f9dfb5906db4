"""What trains and samples here lowers for machines that are not here: a kernel without forward mode fails at lowering, nowhere earlier."""

import jax
import jax.numpy as jnp
import pytest
import toys

from anystep import sampling, times, tree
from anystep.guide import classifier_free
from anystep.objectives.consistency import consistency
from anystep.objectives.flow_matching import flow_matching
from anystep.objectives.mix import Term, mix, prepare
from anystep.objectives.self_evaluation import self_evaluation
from anystep.types import Roles

VARIANTS = pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({**toys.SANA, "remat": True}, marks=pytest.mark.slow),
        pytest.param({"dtype": "bfloat16"}, marks=pytest.mark.slow),
        pytest.param({"dtype": "bfloat16", "attention": "linear", "ffn": "conv", "scan": False}, marks=pytest.mark.slow),
    ],
    ids=["softmax", "linear", "softmax bfloat16", "linear bfloat16"],
)
PLATFORM = pytest.mark.parametrize("platform", ["tpu", pytest.param("cuda", marks=pytest.mark.slow)])


def exports(function, platform, *arguments):
    shapes = jax.eval_shape(lambda *a: a, *arguments)
    exported = jax.export.export(jax.jit(function), platforms=[platform])(*shapes)
    assert exported.platforms == (platform,) and len(exported.mlir_module_serialized) > 1000


def models_of(options):
    models = {"net": toys.tiny_sana(depth=2, **options)._replace(ends="hybrid", gap=0.25), "text": toys.tiny_text()}
    return models, {role: jax.eval_shape(model.init, jax.random.key(0)) for role, model in models.items()}


@pytest.mark.slow
@PLATFORM
@VARIANTS
def test_gradient_of_the_three_objectives(options, platform):
    models, params = models_of(options)
    terms = [
        Term("flow_matching", flow_matching(), 2),
        Term("self_evaluation", self_evaluation(s_min=0.25), 1),
        Term("consistency", consistency(), 1),
    ]

    def step(params, ema, batch, number):
        def loss(params):
            roles, key = Roles(params, ema, {}, {}), jax.random.key(0)
            total, metrics, _ = mix(terms, models, roles, prepare(models, roles, batch, key, number, 0.1), key, number)
            return total, metrics

        return jax.value_and_grad(loss, has_aux=True)(params)

    batch = {"x0": jnp.zeros((4, 8, 8, 3)), "index": jnp.arange(4), "cond": {"tokens": jnp.zeros((4, 6, 2), jnp.int32)}}
    exports(step, platform, params, params, batch, jnp.int32(0))


@PLATFORM
@VARIANTS
def test_guided_sampler(options, platform):
    models, params = models_of(options)
    net, text = models["net"], models["text"]

    def draw(params, tokens, index):
        def velocity(tokens):
            cond = text.encode(params["text"], tokens)
            return lambda x, t, s: net.velocity(params["net"], x, t, s, cond)

        guided = classifier_free(velocity(jnp.zeros_like(tokens).at[:, 0].set(1)), 3.0, True, (0.0, 0.95))(velocity(tokens))
        noise, keys = (tree.sample_keys(jax.random.key(0), name, 0, index) for name in ("noise", "sampler"))
        return sampling.sample(sampling.make("euler", guided, net), keys, tree.normal(noise, net.shape), times.grid(4))[0]

    exports(draw, platform, params, jnp.zeros((4, 6, 2), jnp.int32), jnp.arange(4))
