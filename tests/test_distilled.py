"""Consistency in the whole: a small network distilled along the exact velocity of a mixture, whose exact map is known."""

import jax
import jax.numpy as jnp
import optax
import pytest
import toys

from anystep.nets import mlp
from anystep.objectives.consistency import Teacher, consistency
from anystep.sampling import make, sample
from anystep.types import Roles

KEY, STEPS, ROWS, DRAWN = jax.random.key(8), 2000, 128, 512


def restarted(model, params, steps):
    """Where `steps` even steps of it end, of the same noises for every model. [DRAWN, 2]."""
    keys, noise = jax.random.split(jax.random.key(3), DRAWN), jax.random.normal(jax.random.key(2), (DRAWN, *model.shape))
    walker = make("restart", lambda x, t, s: model.velocity(params, x, t, s, told(DRAWN)), model)
    return sample(walker, keys, noise, jnp.linspace(1.0, 0.0, steps + 1))[0].reshape(DRAWN, 2)


def told(rows):
    return {"features": jnp.zeros((rows, 1, 1)), "mask": jnp.ones((rows, 1), bool)}


def along_points(field):
    """`field` of x [B, 2] and t, as a Model of the plane's points in their shape."""
    return toys.analytic(lambda params, x, t, s, cond: field(x.reshape(-1, 2), t).reshape(x.shape), shape=(1, 1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"tangent": "l2"}, pytest.param({"tangent": "rms", "prior": True}, marks=pytest.mark.long)], ids=str)
def test_a_student_of_the_exact_velocity_draws_the_mixture(options):
    """The root mean square distance to what the exact map draws of the same noises bounds the transport distance W2 from above: after one
    and two steps a small part of the data's own size, where the teacher itself is far off."""
    student, teacher = mlp.build(mlp.Options(width=64, second_time=False), 1), along_points(toys.exact_velocity)
    objective = consistency(teacher=Teacher("teacher"), form="trig", weighting="none", warmup=STEPS // 4, **options)
    optimizer = optax.adam(optax.cosine_decay_schedule(4e-3, STEPS))

    def step(carry, i):
        params, state = carry
        key = jax.random.fold_in(KEY, i)
        batch = toys.plain_batch(toys.draw(key, ROWS)[0].reshape(-1, 1, 1, 2), told(ROWS)) | {"scale": jnp.ones(ROWS)}
        batch |= {"teacher_cond": {}, "teacher_null": {}}

        def loss(params):
            roles = Roles({"net": params}, {"net": params}, {"teacher": {}}, {})
            return jnp.mean(objective({"net": student, "teacher": teacher}, roles, batch, key, i)[0])

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    params = student.init(KEY)
    (params, _), _ = jax.jit(lambda *carry: jax.lax.scan(step, carry, jnp.arange(STEPS)))(params, optimizer.init(params))
    exact = along_points(lambda x, t: toys.exact_map(x, t, 0 * t))
    for steps in (1, 2):
        wanted = restarted(exact, {}, steps)
        found = [restarted(*model, steps) for model in ((student, params), (teacher, {}))]
        off, before = (float(jnp.sqrt(jnp.mean(jnp.sum((x - wanted) ** 2, axis=1)))) for x in found)
        assert off < 0.15 < 0.5 < before
