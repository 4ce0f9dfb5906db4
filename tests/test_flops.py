"""The FLOP counter against counts by hand, XLA's count where no loop fools it, and identities: scan, gradient, jvp, remat, dead code."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.experimental import pallas as pl
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from anystep import flops


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def matmul(fn, *args):
    return flops.count(fn, *args).matmul


def test_products_by_hand():
    assert matmul(jnp.dot, array(3, 5), array(5, 7)) == 2 * 3 * 5 * 7
    assert matmul(lambda a, b: jnp.einsum("bhqd,bhkd->bhqk", a, b), array(2, 4, 6, 8), array(2, 4, 5, 8)) == 2 * (2 * 4) * 6 * 5 * 8
    assert matmul(lambda a, b: jnp.einsum("abc,bcd->ad", a, b), array(3, 4, 5), array(4, 5, 6)) == 2 * 3 * (4 * 5) * 6
    assert matmul(jnp.vdot, array(9), array(9)) == 2 * 9


def conv(x, k, stride=1, padding="SAME", groups=1, spread=1, hole=1):
    return lax.conv_general_dilated(
        x, k, (stride, stride), padding, (spread, spread), (hole, hole), ("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def test_convolutions_by_hand():
    x = array(2, 8, 8, 6)
    assert matmul(lambda x, k: conv(x, k, padding="VALID"), x, array(3, 3, 6, 10)) == 2 * (2 * 6 * 6 * 10) * 3 * 3 * 6
    assert matmul(lambda x, k: conv(x, k, padding="VALID", groups=3), x, array(3, 3, 2, 9)) == 2 * (2 * 6 * 6 * 9) * 3 * 3 * 2
    assert matmul(lambda x, k: conv(x, k, stride=2, padding="VALID"), x, array(2, 2, 6, 5)) == 2 * (2 * 4 * 4 * 5) * 2 * 2 * 6
    # 3 taps on a row of 8: the two ends miss one each, 3 * 8 - 2 = 22 pairs
    assert matmul(conv, x, array(3, 3, 6, 10)) == 2 * 2 * 10 * 6 * 22 * 22
    # transposed by 2, kernel 2: each input element meets each tap once
    assert matmul(lambda x, k: lax.conv_transpose(x, k, (2, 2), "VALID"), x, array(2, 2, 6, 5)) == 2 * 2 * 5 * 6 * (8 * 2) * (8 * 2)


@pytest.mark.parametrize(
    "options",
    [
        dict(stride=2),
        dict(padding=((2, 1), (0, 3)), groups=4, spread=2),
        dict(stride=3, padding=((2, 1), (0, 3)), groups=2, spread=2, hole=2),
        dict(padding="VALID", hole=2),
    ],
)
def test_convolutions_and_their_gradients_against_xla(options):
    x, k = array(2, 9, 8, 4), array(3, 2, 4 // options.get("groups", 1), 8)

    def forward(x, k):
        return conv(x, k, **options)

    def backward(x, k, ct):
        return jax.vjp(forward, x, k)[1](ct)

    out = jax.eval_shape(forward, x, k)
    assert matmul(forward, x, k) == jax.jit(forward).lower(x, k).cost_analysis()["flops"]
    assert matmul(backward, x, k, out) == jax.jit(backward).lower(x, k, out).cost_analysis()["flops"] == 2 * matmul(forward, x, k)


def mlp(weights, x):
    for w in weights[:-1]:
        x = jnp.tanh(x @ w)
    return x @ weights[-1]


def loss(weights, x):
    return jnp.sum(mlp(weights, x) ** 2)


BATCH, WIDTHS = 5, (3, 8, 7, 2)
WEIGHTS, X = tuple(array(m, n) for m, n in zip(WIDTHS[:-1], WIDTHS[1:], strict=True)), array(BATCH, 3)
FORWARD = 2 * BATCH * (3 * 8 + 8 * 7 + 7 * 2)
FIRST_LAYER = 2 * BATCH * 3 * 8


def test_gradient_is_three_forwards_less_the_gradient_of_the_input():
    assert matmul(mlp, WEIGHTS, X) == FORWARD
    assert matmul(jax.value_and_grad(loss), WEIGHTS, X) == 3 * FORWARD - FIRST_LAYER
    assert matmul(jax.value_and_grad(loss, (0, 1)), WEIGHTS, X) == 3 * FORWARD


def test_remat_adds_a_forward():
    plain, remat = (matmul(jax.value_and_grad(f), WEIGHTS, X) for f in (loss, jax.checkpoint(loss)))
    assert remat - plain == FORWARD


def test_jvp_doubles_a_product_and_triples_it_when_both_factors_move():
    w, x = array(4, 6), array(3, 4)
    one = 2 * 3 * 4 * 6
    assert matmul(lambda x, dx, w: jax.jvp(lambda x: x @ w, (x,), (dx,)), x, x, w) == 2 * one
    assert matmul(lambda x, dx, w, dw: jax.jvp(jnp.dot, (x, w), (dx, dw)), x, x, w, w) == 3 * one
    assert matmul(lambda x, dx, w: jax.jvp(lambda x: mlp(w, x), (x,), (dx,)), X, X, WEIGHTS) == 2 * FORWARD


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint, lambda f: jax.jit(jax.checkpoint(jax.jit(f)))])
def test_dead_code_costs_nothing(wrap):
    w, x = array(4, 4), array(3, 4)
    one = 2 * 3 * 4 * 4

    def two(x, w):
        return jnp.tanh(x @ w), jnp.sin(x) @ w

    assert flops.count(lambda x, w: wrap(two)(x, w)[0], x, w) == flops.Flops(one, 3 * 4)
    assert matmul(lambda x, w: jax.jvp(lambda x: wrap(two)(x, w), (x,), (x,))[0], x, w) == 2 * one  # both primals, no tangent
    assert matmul(lambda x, w: jax.jvp(lambda x: wrap(two)(x, w), (x,), (x,))[1][1], x, w) == one  # cos(x) dx W alone


def scanned(unroll, remat=False):
    def layer(h, w):
        h = jnp.tanh(h @ w)
        return h, h @ h.T

    def run(x, ws):
        step = jax.checkpoint(layer) if remat else layer
        if not unroll:
            return lax.scan(step, x, ws)
        maps = []
        for i in range(ws.shape[0]):
            x, m = step(x, ws[i])
            maps.append(m)
        return x, jnp.stack(maps)

    return run


@pytest.mark.parametrize("remat", [False, True])
def test_scan_equals_unrolled(remat):
    x, ws = array(3, 4), array(6, 4, 4)
    layer, extra = 2 * 3 * 4 * 4, 2 * 3 * 3 * 4
    counts = [matmul(scanned(unroll, remat), x, ws) for unroll in (False, True)]
    assert counts[0] == counts[1] == 6 * (layer + extra)
    dead = [matmul(lambda x, ws, u=u: scanned(u, remat)(x, ws)[0], x, ws) for u in (False, True)]
    assert dead[0] == dead[1] == 6 * layer
    loss = [lambda x, ws, u=u: jnp.sum(scanned(u, remat)(x, ws)[0] ** 2) for u in (False, True)]
    assert matmul(jax.grad(loss[0], (0, 1)), x, ws) == matmul(jax.grad(loss[1], (0, 1)), x, ws) == (3 + remat) * 6 * layer
    nested = matmul(lambda x, ws: lax.scan(lambda h, _: (scanned(False)(h, ws)[0], None), x, None, length=5)[0], x, ws)
    assert nested == 5 * 6 * layer


def test_the_step_of_the_house_grad_of_jvp_agrees_scanned_and_unrolled():
    x, ws = array(3, 4), array(6, 4, 4)

    def objective(unroll):
        def loss(ws, x):
            u, du = jax.jvp(lambda x: scanned(unroll, remat=True)(x, ws)[0], (x,), (jnp.ones_like(x),))
            return jnp.sum((u - lax.stop_gradient(u - du)) ** 2)

        return jax.grad(loss, (0, 1))

    assert matmul(objective(False), ws, x) == matmul(objective(True), ws, x)


def test_branches_take_the_dearest_and_say_so():
    x = array(4, 4)
    found = flops.count(lambda x: lax.switch(x[0, 0].astype(int), [lambda: x, lambda: x @ x @ x, lambda: x @ x]), x)
    assert found.matmul == 2 * 2 * 4**3 and found.notes == ("cond: branch 1 of 3, the dearest",)
    assert flops.count(lambda x: lax.cond(x[0, 0] > 0, lambda: x @ x, lambda: x @ x.T), x).notes == ()


def test_while_is_flagged_and_a_loop_of_known_length_is_not():
    x = array(4, 4)
    found = flops.count(lambda x: lax.while_loop(lambda x: x[0, 0] < 1, lambda x: x @ x, x), x)
    assert found.matmul == 2 * 4**3 and found.notes == ("while: body counted once",)
    assert flops.count(lambda x: lax.fori_loop(0, 9, lambda i, x: x @ x, x), x)[::2] == (9 * 2 * 4**3, ())


def test_custom_derivatives_calls_and_factorisations():
    @jax.custom_vjp
    def f(x):
        return x @ x

    f.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x.T @ x,))
    x = array(4, 4)
    assert matmul(f, x) == 2 * 4**3
    assert matmul(jax.grad(lambda x: f(x).sum()), x) == 2 * 2 * 4**3  # the forward's product is dead, the rule's two are not
    assert matmul(lambda x: jax.nn.relu(x @ x), x) == 2 * 4**3
    assert flops.count(lambda x: jnp.linalg.svd(x), x).notes == ("svd: not counted",)


def test_shard_map_counts_every_device_and_pallas_every_block():
    mesh = AbstractMesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    spec = PartitionSpec("a", None)
    by_rows = jax.shard_map(lambda x, w: x @ w, mesh=mesh, in_specs=(spec, PartitionSpec()), out_specs=spec, axis_names={"a"})
    assert matmul(by_rows, array(8, 6), array(6, 5)) == 2 * 8 * 6 * 5

    def kernel(a, b, out):
        out[...] = a[...] @ b[...]

    rows, columns = pl.BlockSpec((4, 6), lambda i, j: (i, 0)), pl.BlockSpec((6, 4), lambda i, j: (0, j))
    blocks = pl.BlockSpec((4, 4), lambda i, j: (i, j))
    tiled = pl.pallas_call(kernel, grid=(2, 3), in_specs=[rows, columns], out_specs=blocks, out_shape=array(8, 12))
    assert matmul(tiled, array(8, 6), array(6, 12)) == 2 * 8 * 6 * 12


def test_elementwise_is_a_number_of_its_own():
    x = array(4, 6)
    assert flops.count(lambda x: jnp.tanh(x) + x, x) == flops.Flops(0.0, 2 * 24)
    assert flops.count(lambda x: jnp.sum(x, axis=0), x) == flops.Flops(0.0, 24)
    assert flops.count(lambda x: jnp.concatenate([x.T.reshape(4, 6), x[::-1]]), x) == flops.Flops()


def test_peaks_of_the_data_sheets():
    kinds = {
        "NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12, "NVIDIA A100-SXM4-80GB": 312e12, "NVIDIA A100 80GB PCIe": 312e12,
        "NVIDIA B200": 2250e12, "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5e": 197e12, "TPU v5": 459e12, "TPU v5p": 459e12,
        "TPU v6 lite": 918e12, "TPU v6e": 918e12,
    }  # fmt: skip
    assert {kind: flops.peak(kind) for kind in kinds} == kinds
    unknown = ["cpu", "", "NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA H200 MIG 1g.18gb", "NVIDIA RTX A1000", "TPU v4 lite", "TPU v3"]
    assert [flops.peak(kind) for kind in unknown] == [None] * len(unknown)
    assert flops.peak(jax.devices("cpu")[0].device_kind) is None
