"""Networks: parts equal the whole, what is captured, hand-written layers against textbook ones, parameter counts, no dead leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from anystep import tree
from anystep.nets.attention import attend
from anystep.nets.blocks import DepthwiseConv3x3
from anystep.nets.sana import patchify, product, unpatchify
from anystep.types import Capture

SANA = toys.SANA
NETS = pytest.mark.parametrize("options", [{}, {"scan": False}, SANA], ids=["scanned", "unrolled", "sana"])


def setting(**options):
    model = toys.tiny_sana(**options)
    return model, toys.random_params(model), *toys.picture_inputs(model)


@NETS
def test_parts_are_the_whole(options):
    model, params, x, t, s, cond = setting(**options)
    whole = model.velocity(params, x, t, s, cond)[0]
    h = model.embed(params, x, t, s, cond)
    assert (model.head(params, model.blocks(params, h, 0, model.depth)[0]) == whole).all()
    halves = model.blocks(params, model.blocks(params, h, 0, 1)[0], 1, model.depth)[0]
    assert (model.head(params, halves) == whole).all()


@pytest.mark.slow
def test_parts_of_the_mlp_are_the_whole():
    model = toys.tiny_mlp()
    params = toys.random_params(model)
    x, t, s, cond = toys.picture_inputs(model)
    h = model.blocks(params, model.embed(params, x, t, s, cond), 0, 1)[0]
    assert (model.head(params, model.blocks(params, h, 1, 2)[0]) == model.velocity(params, x, t, s, cond)[0]).all()
    u = jax.jit(model.velocity)(params, x, t, s, cond)[0]
    assert np.abs(u - model.velocity(params, x, t, 0 * s, cond)[0]).max() > 1e-3  # sees s


@pytest.mark.slow
@NETS
def test_capture(options):
    model, params, x, t, s, cond = setting(**options)
    tokens = jnp.broadcast_to(jnp.eye(6), (4, 6, 6))
    velocity = jax.jit(model.velocity)
    u, aux = velocity(params, x, t, s, cond)
    for layers in ((1,), (0, 2)):
        captured, found = jax.jit(lambda *a, layers=layers: model.velocity(*a, capture=Capture(layers, tokens)))(params, x, t, s, cond)
        assert (captured == u).all() and aux == {}
        assert found["maps"].shape == (len(layers), 4, 2, 6, 4)
        np.testing.assert_allclose(found["maps"].sum(axis=3), 1.0, atol=1e-5)
        absent = jnp.moveaxis(found["maps"], 3, 2)[:, ~cond["mask"]]  # [layers, masked tokens, heads, image tokens]
        assert (absent == 0).all()


def qkv(m=5):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(2, n, 3, 4)), jnp.float32) for n in (7, m, m)]


def test_linear_attention_is_its_quadratic_form():
    q, k, v = qkv()
    weights = np.einsum("bnhd,bmhd->bhnm", np.maximum(q, 0), np.maximum(k, 0))
    expected = np.einsum("bhnm,bmhd->bnhd", weights / np.maximum(weights.sum(-1, keepdims=True), 1e-9), v)
    np.testing.assert_allclose(attend(q, k, v, "linear")[0], expected, atol=1e-5)


@pytest.mark.slow
def test_softmax_attention_is_the_stock_one():
    q, k, v = qkv()
    mask = jnp.array([[True, False, True, True, False], [True] * 5])
    expected = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None, None, :], implementation="xla")
    np.testing.assert_allclose(attend(q, k, v, mask=mask)[0], expected, atol=1e-5)
    even = attend(q, k, v, mask=jnp.zeros((2, 5), bool))[0]
    np.testing.assert_allclose(even, jnp.broadcast_to(v.mean(1, keepdims=True), even.shape), atol=1e-6)


def test_linear_attention_refuses_masks():
    with pytest.raises(ValueError, match="linear"):
        attend(*qkv(), kind="linear", mask=jnp.ones((2, 5), bool))


def test_patchify_comes_back_and_keeps_patches_together():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    tokens = patchify(x, 2)
    assert (unpatchify(tokens, (2, 3), 2) == x).all()
    assert (tokens[1, 4].reshape(2, 2, 3) == x[1, 2:4, 2:4]).all()  # row 1, column 1 of the grid


@pytest.mark.slow
def test_the_depthwise_convolution_is_the_textbook_one():
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 4))
    module, p = DepthwiseConv3x3(), {"kernel": jax.random.normal(jax.random.key(1), (9, 4)), "bias": jnp.arange(4.0)}
    kernel, dimensions = p["kernel"].reshape(3, 3, 1, 4), ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dimensions, feature_group_count=4)
    np.testing.assert_allclose(module.apply({"params": p}, x), expected + p["bias"].reshape(1, 1, 1, -1), atol=1e-5)


def test_a_convolution_as_a_product_is_the_textbook_one():
    x, kernel = (
        jax.random.normal(key, shape) for key, shape in zip(jax.random.split(jax.random.key(0)), ((2, 5, 6, 4), (3, 3, 4, 7)), strict=True)
    )
    expected = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(product(x, kernel), expected, atol=1e-5)


@pytest.mark.slow
def test_products_change_no_answer_and_no_gradient():
    one, other = (toys.tiny_sana(**SANA | {"stem": 8, "patch": 2, "products": products}) for products in (False, True))
    params, inputs = toys.random_params(one), toys.picture_inputs(one)
    results = [jax.jit(jax.value_and_grad(lambda p, m=m: jnp.sum(m.velocity(p, *inputs)[0] ** 2)))(params) for m in (one, other)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max() + 1e-7), *results)
    convolutions = [
        str(jax.make_jaxpr(lambda p, m=m: m.velocity(p, *inputs)[0])(params)).count("conv_general_dilated") for m in (one, other)
    ]
    assert convolutions[0] > 0 == convolutions[1]


@pytest.mark.slow
def test_the_second_time_says_nothing_at_first():
    model = toys.tiny_sana()
    x, t, s, cond = toys.picture_inputs(model)
    velocity = jax.jit(model.velocity)
    params = model.init(jax.random.key(0))
    assert (velocity(params, x, t, s, cond)[0] == velocity(params, x, t, t, cond)[0]).all()
    params = toys.random_params(model)
    assert (velocity(params, x, t, s, cond)[0] != velocity(params, x, t, t, cond)[0]).any()


@pytest.mark.slow
def test_x0_prediction():
    """u = (x_t - x0) / t: the two heads of one network tell one story, away from t = 0."""
    v, params, x, t, s, cond = setting(predicts="v")
    answer = v.velocity(params, x, t, s, cond)[0]
    found = toys.tiny_sana(predicts="x0").velocity(params, x, t, s, cond)[0]
    np.testing.assert_allclose(x - t.reshape(-1, 1, 1, 1) * found, answer, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("attention", [pytest.param("softmax", marks=pytest.mark.long), "linear"])
def test_bfloat16_under_jvp_and_grad(attention):
    def run(dtype):
        model, params, x, t, s, cond = setting(dtype=dtype, attention=attention)
        params = jax.tree.map(lambda p: p / 2, params)

        def loss(params):
            u, du = jax.jvp(lambda x, t: model.velocity(params, x, t, s, cond)[0], (x, t), (jnp.ones_like(x), jnp.ones_like(t)))
            return jnp.mean(u**2), (u, du)

        gradient, answers = jax.jit(jax.grad(loss, has_aux=True))(params)
        return *answers, tree.global_norm(gradient), jax.tree.leaves(gradient)

    full, half = run("float32"), run("bfloat16")
    assert all(a.dtype == jnp.float32 and np.isfinite(a).all() for a in half[-1]) and half[0].dtype == half[1].dtype == jnp.float32
    for a, b in zip(half[:3], full[:3], strict=True):
        assert np.linalg.norm(a - b) < 0.1 * np.linalg.norm(b)
    assert (half[0] != full[0]).any()


W, D, P, C, T = 16, 3, 4, 3, 16  # width, depth, patch, channels, width of the text


@pytest.mark.parametrize(
    "options, more",
    [
        ({"stem": 0}, 0),
        ({"stem": 0, "attention": "linear"}, 0),
        ({"stem": 0, "positions": "none"}, 0),
        ({"stem": 0, "depth": 4}, None),
        ({"stem": 0, "qk_norm": False}, -D * 4 * W),  # a scale for q and for k in both attentions
        # 1x1 to 2 r W, nine taps and a bias, 1x1 back without a bias, for the MLP
        ({"stem": 0, "ffn": "conv", "mlp_ratio": 2.5}, D * ((W + 1) * 80 + 80 * 10 + 40 * W - (W * 64 + 64 + 64 * W + W))),
        # at half the resolution: two 3x3 convolutions in and three out, a gate, patches of 8 channels at (P/2)^2 positions, all with biases
        ({"stem": 8}, (9 * 4 * C + 1) * 8 + 3 * 73 * 8 + 73 * 4 * C + (W + 1) * 8 + ((P // 2) ** 2 * 8 - P * P * C) * (2 * W + 1)),
    ],
    ids=str,
)
def test_parameter_counts(options, more):
    def count(options):
        return tree.count(jax.eval_shape(toys.tiny_sana(**options).init, jax.random.key(0)))

    attention = (3 * W * W, W * W + W, 2 * W)  # q, k, v; out; two norms
    block = 6 * W + 2 * sum(attention) + 3 * W + (W * 64 + 64 + 64 * W + W)  # table, attentions, biases of the cross q, k, v, MLP
    clocks = 2 * (256 * W + W + W * W + W) + (W * 6 * W + 6 * W)
    outside = (P * P * C + 1) * W + clocks + (T * W + W) + (W * W + W) + W + 2 * W + (W + 1) * P * P * C
    assert count(options) == outside + (4 * block if more is None else D * block + more)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, SANA, {**SANA, "qk_norm": False}], ids=["default", "sana", "sana without norms"])
def test_no_dead_parameter(options):
    model, params, x, t, s, cond = setting(**options)
    cond = {**cond, "mask": jnp.ones_like(cond["mask"])}
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(3 * model.velocity(p, x, t, s, cond)[0]))))(params)
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient))
    dead = {name for name, g in tree.paths(gradient).items() if jnp.abs(g).max() < 1e-8 * largest}
    # softmax does not see a constant added to all its logits, so without norms the bias of the cross attention's keys is idle, as in SANA
    assert dead == ({"blocks/cross/k/bias"} if options.get("qk_norm", True) is False else set())
