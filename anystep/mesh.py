"""Where arrays live: the mesh, the sharding of a state by shape, the batch's rows, constraints on activations.

One mesh with the axes ("data", "fsdp"). A batch is split by rows over both; parameters, optimizer state and EMA are split over "fsdp" by
one rule on shapes that knows nothing of the networks. Devices are taken in the order of their process, so that process p holds the p-th
contiguous block of rows of the global batch; the price is that a ring over several TPU hosts may not follow the torus.

    mesh = make_mesh(config.mesh)
    shardings, whole = shard_rule(jax.eval_shape(init, key), mesh)
    with jax.set_mesh(mesh):
        state = jax.jit(init, out_shardings=shardings)(key)
"""

import math
import os
import re
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from anystep import tree
from anystep.errors import UserError

AXES = ("data", "fsdp")
ROWS = (AXES,)
"""The spec of an activation whose first axis is the batch, for `constrain`."""


HEARTBEAT = 20  # seconds of silence after which a process counts as dead, and takes the others with it


def join(address: str) -> None:
    """Makes this process one of several: "" for one alone, "auto" where a cluster says who is who (TPU pods, Slurm, Kubernetes), or
    "HOST:PORT,PROCESSES,ID". Before anything asks for a device. UserError for anything else, or if the others are not found."""
    if not address:
        return
    asked = {}
    if address != "auto":
        parts = address.split(",")
        if (
            len(parts) != 3
            or not re.fullmatch(r".+:\d+", parts[0])
            or not (parts[1].isdecimal() and parts[2].isdecimal())
            or int(parts[2]) >= int(parts[1])
        ):
            raise UserError(f'--processes {address!r}: must be "auto" or HOST:PORT,PROCESSES,ID with 0 <= ID < PROCESSES')
        asked = dict(coordinator_address=parts[0], num_processes=int(parts[1]), process_id=int(parts[2]))
    try:
        jax.distributed.initialize(**asked, heartbeat_timeout_seconds=HEARTBEAT)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--processes {address!r}: {' '.join(str(error).split())[:200]}") from None


def make_mesh(mesh_config) -> Mesh:
    """A [data, fsdp] mesh; data = -1 takes every device that fsdp leaves; one process may ask for fewer. Raises UserError."""
    devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    data, fsdp, n = mesh_config.data, mesh_config.fsdp, len(devices)
    if not 1 <= fsdp <= n or (data == -1 and n % fsdp):
        raise UserError(f"config.mesh.fsdp = {fsdp}: allowed are the divisors of {n}, the number of devices")
    data = n // fsdp if data == -1 else data
    if not 1 <= data <= n // fsdp:
        raise UserError(f"config.mesh.data = {data}: allowed is -1 (all) or 1 to {n // fsdp}, {n} devices over fsdp = {fsdp}")
    if data * fsdp < n and jax.process_count() > 1:
        raise UserError(f"config.mesh.data = {data}: with several processes data * fsdp must be {n}, the number of devices")
    return Mesh(np.array(devices[: data * fsdp]).reshape(data, fsdp), AXES, axis_types=(AxisType.Auto,) * 2)


def is_stacked(name: str) -> bool:
    """Whether a leaf has the layer axis, over which the network scans, first."""
    return not {"blocks", "double", "single"}.isdisjoint(name.split("/"))


def shard_rule(abstract, mesh: Mesh, never_axis0=is_stacked, at_least: int = 2**18):
    """Shardings of a tree of arrays or ShapeDtypeStructs, and the names of the leaves left whole though they have `at_least` bytes.

    A leaf of `at_least` bytes is split over "fsdp" along its largest divisible dimension (the last of equals), never along axis 0 where
    `never_axis0(name)`: a scan would gather every layer at each turn. All others are replicated. Optimizer states and averages hold
    copies of the params tree, so their names obey the same rule.
    """
    fsdp, shardings, whole = mesh.shape["fsdp"], [], []
    for name, leaf in tree.paths(abstract).items():
        spec = [None] * len(leaf.shape)
        if fsdp > 1 and math.prod(leaf.shape) * leaf.dtype.itemsize >= at_least:
            dims = [d for d, n in enumerate(leaf.shape) if n % fsdp == 0 and not (d == 0 and never_axis0(name))]
            if dims:
                spec[max(dims, key=lambda d: (leaf.shape[d], d))] = "fsdp"
            else:
                whole.append(name)
        shardings.append(NamedSharding(mesh, PartitionSpec(*spec)))
    return jax.tree.unflatten(jax.tree.structure(abstract), shardings), whole


def on_one_device(abstract):
    """Shardings of a tree that leave every leaf whole on the first device of this process."""
    return jax.tree.map(lambda _: SingleDeviceSharding(jax.local_devices()[0]), abstract)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over all devices, whichever axis they are on."""
    return NamedSharding(mesh, PartitionSpec(*ROWS))


def constrain(x, spec=ROWS):
    """Pin the sharding of x (a tree shares one spec: mesh axes by dimension) under `jax.set_mesh`; without a mesh, x itself."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def device_batch(batch, mesh: Mesh):
    """Global arrays from this process's block of rows (a tree of numpy arrays). Raises UserError if the devices do not divide the rows."""
    sharding, processes = batch_sharding(mesh), jax.process_count()

    def place(rows):
        shape = (len(rows) * processes, *rows.shape[1:])
        if shape[0] % mesh.size:
            raise UserError(f"config.data.batch = {shape[0]}: allowed are multiples of {mesh.size}, the devices of the mesh")
        return jax.make_array_from_process_local_data(sharding, rows, shape)

    return jax.tree.map(place, batch)


def state_bytes(abstract, shardings) -> int:
    """Bytes that each device holds of a tree under its shardings, exactly (the rule splits evenly, so every device holds the same)."""
    leaves = zip(jax.tree.leaves(abstract), jax.tree.leaves(shardings), strict=True)
    return sum(math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, sharding in leaves)


def agree(value: int) -> int:
    """The number of the first process, on all of them: what each reads off its own disk may differ."""
    return value if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def leave_alone(error: Exception) -> None:
    """With several processes, ends this one at once with code 2: the others are inside a step that waits for it, no end can be agreed on,
    and its silence ends them."""
    if jax.process_count() > 1:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(2)


def on_every_host(tree):
    """numpy arrays of a tree of global arrays, whole on every process; all must ask."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)
