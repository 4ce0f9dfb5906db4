"""What needs eight devices, on fake CPU ones: run by `test_mesh` in a process of its own, because devices are counted once per process."""

from pathlib import Path
from types import SimpleNamespace

import jax

jax.config.update("jax_num_cpu_devices", 8)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from anystep import mesh as meshes  # noqa: E402
from anystep import tree  # noqa: E402
from anystep.errors import UserError  # noqa: E402
from anystep.weights import port  # noqa: E402

FIXTURES = Path(__file__).parent / "fixtures"


def make(data=-1, fsdp=1):
    return meshes.make_mesh(SimpleNamespace(data=data, fsdp=fsdp))


def spec(sharding):
    return tuple(sharding.spec)


def test_mesh_shapes_and_automatic_axes():
    for asked, shape in {(-1, 1): (8, 1), (-1, 4): (2, 4), (2, 2): (2, 2), (1, 8): (1, 8), (1, 1): (1, 1), (2, 3): (2, 3)}.items():
        mesh = make(*asked)
        assert (mesh.shape["data"], mesh.shape["fsdp"]) == shape and mesh.axis_names == ("data", "fsdp")
        assert all(kind == jax.sharding.AxisType.Auto for kind in mesh.axis_types)
    assert [d.id for d in make(-1, 2).devices.flat] == [d.id for d in jax.devices()]


@pytest.mark.parametrize("data, fsdp, most", [(9, 1, 8), (0, 1, 8), (-2, 1, 8), (3, 4, 2)])
def test_a_data_axis_that_the_machine_does_not_have_is_refused(data, fsdp, most):
    with pytest.raises(UserError, match=rf"config\.mesh\.data = {data}: allowed is -1 \(all\) or 1 to {most}, 8 devices"):
        make(data, fsdp)


@pytest.mark.parametrize("data, fsdp", [(-1, 3), (1, 16), (-1, 0)])
def test_an_fsdp_axis_that_the_machine_does_not_have_is_refused(data, fsdp):
    with pytest.raises(UserError, match=rf"config\.mesh\.fsdp = {fsdp}: allowed are the divisors of 8,"):
        make(data, fsdp)


def state():
    f32, bf16 = jnp.float32, jnp.bfloat16
    return {
        "embed": {"kernel": jax.ShapeDtypeStruct((48, 128), f32)},
        "blocks": {
            "wide": jax.ShapeDtypeStruct((8, 64, 256), f32),
            "tall": jax.ShapeDtypeStruct((8, 256, 64), f32),
            "square": jax.ShapeDtypeStruct((64, 32, 32), f32),  # the layer axis is the largest, and stays whole
            "odd": jax.ShapeDtypeStruct((8, 63, 65), f32),  # only the layer axis divides
            "bias": jax.ShapeDtypeStruct((8, 16), f32),
        },
        "ema": {"blocks": {"wide": jax.ShapeDtypeStruct((8, 64, 256), bf16)}},
        "step": jax.ShapeDtypeStruct((), jnp.int32),
    }


def test_the_rule_by_shape():
    shardings, whole = meshes.shard_rule(state(), make(-1, 4), at_least=4096)
    assert spec(shardings["embed"]["kernel"]) == (None, "fsdp")
    blocks = shardings["blocks"]
    assert [spec(blocks[k]) for k in ("wide", "tall", "square")] == [(None, None, "fsdp"), (None, "fsdp", None), (None, None, "fsdp")]
    assert whole == ["blocks/odd"]
    assert all(s.is_fully_replicated for s in (blocks["odd"], blocks["bias"], shardings["step"]))
    assert spec(shardings["ema"]["blocks"]["wide"]) == (None, None, "fsdp")
    free, left = meshes.shard_rule(state(), make(-1, 4), never_axis0=lambda name: False, at_least=4096)
    assert spec(free["blocks"]["odd"])[0] == spec(free["blocks"]["square"])[0] == "fsdp" and left == []
    alone, left = meshes.shard_rule(state(), make(-1, 1), at_least=1)
    assert left == [] and all(s.is_fully_replicated for s in jax.tree.leaves(alone))


def test_the_threshold_counts_bytes():
    mesh = make(-1, 8)
    f32, bf16 = (jax.ShapeDtypeStruct((8, 128), dtype) for dtype in (jnp.float32, jnp.bfloat16))
    (big, small), whole = meshes.shard_rule((f32, bf16), mesh, at_least=4096)
    assert not big.is_fully_replicated and small.is_fully_replicated and whole == []


def test_state_bytes_are_what_each_device_holds():
    mesh = make(2, 4)
    shardings, _ = meshes.shard_rule(state(), mesh, at_least=4096)
    arrays = jax.jit(lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state()), out_shardings=shardings)()
    held = {device: 0 for device in mesh.devices.flat}
    for leaf in jax.tree.leaves(arrays):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    assert set(held.values()) == {meshes.state_bytes(state(), shardings)}
    split = (48 * 128 + 2 * 8 * 64 * 256 + 64 * 32 * 32) * 4 + 8 * 64 * 256 * 2
    assert meshes.state_bytes(state(), shardings) == split // 4 + (8 * 63 * 65 + 8 * 16) * 4 + 4
    everywhere = jax.tree.map(lambda _: meshes.replicated(mesh), state())
    assert meshes.state_bytes(state(), everywhere) == split + (8 * 63 * 65 + 8 * 16) * 4 + 4


def test_a_batch_keeps_its_rows_and_devices_take_them_in_order():
    mesh = make(2, 4)
    host = {"x0": np.arange(16 * 3, dtype=np.float32).reshape(16, 3), "cond": {"tokens": np.arange(16, dtype=np.int32)}}
    batch = meshes.device_batch(host, mesh)
    np.testing.assert_array_equal(batch["x0"], host["x0"])
    assert batch["cond"]["tokens"].dtype == jnp.int32 and batch["x0"].sharding == meshes.batch_sharding(mesh)
    rows = {shard.device.id: list(np.asarray(shard.data)) for shard in batch["cond"]["tokens"].addressable_shards}
    assert rows == {d.id: [2 * i, 2 * i + 1] for i, d in enumerate(mesh.devices.flat)}
    with pytest.raises(UserError, match=r"config\.data\.batch = 12: allowed are multiples of 8"):
        meshes.device_batch({"x0": np.zeros((12, 3))}, mesh)


def test_constrain_pins_under_a_mesh_and_vanishes_without():
    x = jnp.arange(32.0).reshape(16, 2)
    assert meshes.constrain(x) is x
    assert "sharding_constraint" not in str(jax.make_jaxpr(meshes.constrain)(x))
    mesh = make(2, 4)
    with jax.set_mesh(mesh):
        rows = jax.jit(meshes.constrain)(jax.device_put(x, meshes.replicated(mesh)))
        columns = jax.jit(lambda x: meshes.constrain({"x": x}, (None, "data")))(x)["x"]
    assert rows.sharding.is_equivalent_to(meshes.batch_sharding(mesh), 2)
    assert {s.data.shape for s in rows.addressable_shards} == {(2, 2)} and {s.data.shape for s in columns.addressable_shards} == {(16, 1)}
    np.testing.assert_array_equal(rows, x)
    assert meshes.constrain(x) is x


def test_a_sharded_step_equals_one_device():
    """value and gradient of a scanned network, parameters over fsdp and rows over both, through jvp, vmap and scan: the same numbers."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = {"blocks": {"kernel": jax.random.normal(keys[0], (3, 32, 32)) / 6}, "head": jax.random.normal(keys[1], (32, 16))}
    x = np.asarray(jax.random.normal(keys[2], (16, 32)))

    def loss(params, x):
        def net(x):
            return jax.lax.scan(lambda h, w: (meshes.constrain(jnp.tanh(h @ w)), None), x, params["blocks"]["kernel"])[0] @ params["head"]

        u, du = jax.jvp(net, (x,), (jnp.ones_like(x),))
        return jnp.mean(jax.vmap(jnp.sum)((u - jax.lax.stop_gradient(u - du)) ** 2))

    expected = jax.jit(jax.value_and_grad(loss))(params, x)
    for shape in ((8, 1), (2, 4), (1, 8)):
        mesh = make(*shape)
        shardings, whole = meshes.shard_rule(params, mesh, at_least=1)
        assert whole == []
        with jax.set_mesh(mesh):
            step = jax.jit(jax.value_and_grad(loss), in_shardings=(shardings, meshes.batch_sharding(mesh)), out_shardings=(None, shardings))
            found = step(jax.device_put(params, shardings), meshes.device_batch(x, mesh))
        assert jax.tree.leaves(found[1])[0].sharding == jax.tree.leaves(shardings)[0]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), found, expected)


def split_small(abstract):
    """As `shard_rule`, for the small leaves of a fixture."""
    return meshes.shard_rule(abstract, make(1, 8), at_least=256)[0]


@pytest.mark.parametrize("name", ["sana_sprint", "flux_dev"])
def test_a_checkpoint_of_others_is_read_straight_to_its_shards(name, tmp_path):
    """The same numbers as on one host, every shard on its own device, and no leaf was ever whole."""
    asked = []
    one = port.to_shard

    def seen(source, read, index):
        found = one(source, read, index)
        asked.append(found.size)
        return found

    folder, ours = FIXTURES / name, tmp_path / "ours"
    list(port.bring(folder, ours))
    for place in (folder, ours):
        whole = tree.paths(port.load(place)[2])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(port, "to_shard", seen)
            split = tree.paths(port.load(place, shard=split_small)[2])
        assert set(split) == set(whole)
        for leaf, array in whole.items():
            assert split[leaf].dtype == array.dtype and (np.asarray(split[leaf]) == array).all(), leaf
        large = [leaf for leaf, array in split.items() if not array.sharding.is_fully_replicated]
        assert len(large) > 10 and all(split[leaf].addressable_shards[0].data.size * 8 == split[leaf].size for leaf in large)
    assert max(asked) < max(array.size for array in whole.values())
