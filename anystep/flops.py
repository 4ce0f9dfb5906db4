"""Floating-point operations of a traced program, and the peak of a chip: FLOPs per step and utilisation come from here.

A walk over the jaxpr after dead code is gone. XLA's `cost_analysis` counts a loop body once; here

    scan   length x body                               while         body once, and a note: its trip count is not in the jaxpr
    cond   the dearest branch, and a note              shard_map     devices x body (inside, shapes are per device)
    jit, remat, custom_jvp, custom_vjp   the body      pallas_call   grid x body (inside, shapes are per block)

so the count is that of the whole mesh. A product counts 2 FLOPs per multiply-add:

    dot_general   2 batch M N K
    conv          2 N C_out (C_in / groups) prod_d pairs_d,   pairs_d = (output, tap) pairs of dimension d that meet a true input element

Neither padding nor the zeros that a transposed convolution inserts (lhs_dilation) are counted, as XLA does not count them; so each of
the two gradients of a convolution costs what the convolution does. Elementwise work is a number of its own: 1 per output element
(reductions: per input element), 0 for what only moves data. Nothing here compiles or runs: arguments may be `jax.ShapeDtypeStruct`s.
"""

import math
import re
from typing import NamedTuple

import jax
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

OPAQUE = ("ragged_dot", "ragged_dot_general", "scaled_matmul", "ffi_call", "cholesky", "eigh", "fft", "lu", "qr", "svd", "triangular_solve")
"""Hold products that are not counted; they leave a note."""

MOVES = set(
    """bitcast_convert_type broadcast_in_dim concatenate convert_element_type copy copy_p device_put dynamic_slice dynamic_update_slice
    gather get iota name optimization_barrier pad pbroadcast pvary random_unwrap random_wrap reshape rev sharding_constraint slice split
    squeeze stop_gradient swap transpose""".split()
)

DENSE_BF16 = (
    (r"NVIDIA H[12]00\b(?!.*(PCIe|NVL|MIG)).*", 989e12),  # SXM; PCIe and NVL boards are slower, a MIG slice is a part
    (r"NVIDIA A100\b(?!.*MIG).*", 312e12),
    (r"NVIDIA B200\b(?!.*MIG).*", 2250e12),
    (r"TPU v4", 275e12),
    (r"TPU v5( lite|e)", 197e12),
    (r"TPU v5p?", 459e12),
    (r"TPU v6( lite|e)", 918e12),
)


class Flops(NamedTuple):
    """Counts are floats (they pass 2^53 only where the last digit no longer matters); `notes` names what had to be assumed."""

    matmul: float = 0.0  # dot_general and conv_general_dilated
    elementwise: float = 0.0
    notes: tuple[str, ...] = ()

    def times(self, n) -> "Flops":
        return Flops(n * self.matmul, n * self.elementwise, self.notes)

    def plus(self, other: "Flops") -> "Flops":
        notes = self.notes + tuple(note for note in other.notes if note not in self.notes)
        return Flops(self.matmul + other.matmul, self.elementwise + other.elementwise, notes)


def count(fn, *args, **kwargs) -> Flops:
    """FLOPs of `fn(*args, **kwargs)`; arguments are trees of arrays or ShapeDtypeStructs, anything static is closed over."""
    return count_jaxpr(jax.make_jaxpr(fn)(*args, **kwargs))


def count_jaxpr(jaxpr) -> Flops:
    """FLOPs of a closed jaxpr, all of whose outputs are wanted."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    alive, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _walk(alive)


def peak(device_kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of one jax device by its `device_kind` (vendors' data sheets), None where unknown, as on CPU."""
    return next((flops for pattern, flops in DENSE_BF16 if re.fullmatch(pattern, device_kind)), None)


def _walk(jaxpr) -> Flops:
    total = Flops()
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        total = total.plus(_equation(eqn))
    return total


def _equation(eqn) -> Flops:
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        return Flops(matmul=_dot_general(eqn))
    if name == "conv_general_dilated":
        return Flops(matmul=_conv(eqn))
    if name == "scan":
        return _walk(params["jaxpr"]).times(params["length"])
    if name == "while":
        return _walk(params["cond_jaxpr"]).plus(_walk(params["body_jaxpr"])).plus(Flops(notes=("while: body counted once",)))
    if name == "cond":
        return _dearest([_walk(branch) for branch in params["branches"]])
    if name == "shard_map":
        return _walk(params["jaxpr"]).times(math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"]))
    if name == "pallas_call":
        return _walk(params["jaxpr"]).times(math.prod(params["grid_mapping"].grid))
    if name in OPAQUE:
        return Flops(notes=(f"{name}: not counted",))
    if name.startswith(("reduce_", "arg")) and name != "reduce_precision":
        return Flops(elementwise=float(eqn.invars[0].aval.size))
    inner = [] if name.startswith(("reduce", "scatter", "select_and")) else list(core.jaxprs_in_params(params))
    if inner:
        return _walk(inner[0]) if len(inner) == 1 else Flops(notes=(f"{name}: not counted",))
    return Flops(elementwise=0.0 if name in MOVES else float(sum(getattr(out.aval, "size", 0) for out in eqn.outvars)))


def _dearest(branches: list[Flops]) -> Flops:
    cost = [(branch.matmul, branch.elementwise) for branch in branches]
    best = max(range(len(cost)), key=cost.__getitem__)
    note = () if len(set(cost)) == 1 else (f"cond: branch {best} of {len(cost)}, the dearest",)
    return branches[best].plus(Flops(notes=note))


def _dot_general(eqn) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    return 2.0 * eqn.outvars[0].aval.size * math.prod(eqn.invars[0].aval.shape[d] for d in contracted)


def _conv(eqn) -> float:
    p, (lhs, rhs), out = eqn.params, (v.aval.shape for v in eqn.invars), eqn.outvars[0].aval.shape
    numbers = p["dimension_numbers"]
    batch, features = out[numbers.out_spec[0]], out[numbers.out_spec[1]]
    axes = zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)
    moves = zip(p["window_strides"], p["padding"], p["lhs_dilation"], p["rhs_dilation"], strict=True)
    pairs = [_pairs(lhs[i], rhs[k], out[o], stride, low, spread, hole)
             for (i, k, o), (stride, (low, _), spread, hole) in zip(axes, moves, strict=True)]  # fmt: skip
    return 2.0 * batch * features * rhs[numbers.rhs_spec[1]] * math.prod(pairs)  # rhs already has C_in / groups input features


def _pairs(n_in, taps, n_out, stride, low, spread, hole) -> int:
    place = np.arange(n_out)[:, None] * stride + np.arange(taps)[None] * hole - low
    return int(((place >= 0) & (place <= (n_in - 1) * spread) & (place % spread == 0)).sum())
