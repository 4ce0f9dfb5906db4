"""The total derivative of a two-time network along its path: the only file that calls `jax.jvp` on a network.

For a flow map with average velocity u(x_t, t, s), (t - s) u = integral of v from s to t, differentiated along dx/dt = v with s held fixed:

    u = v - (t - s) du/dt,        du/dt = v . grad_x u + d u / d t                  (MeanFlow, 2505.13447, Eq. 6)

At s = 0 on the trig path this is the tangent of a continuous-time consistency model (2410.11081, Eq. 6).
One fused forward-mode pass gives u and du/dt; u is the very value that the loss differentiates, so nothing is computed twice.
"""

import jax
import jax.numpy as jnp


def total_derivative(velocity, x, t, s, v):
    """(u, du/dt, aux) of `velocity(x, t, s) -> (u, aux)` along (dx, dt, ds) = (v, 1, 0).

    x, v: [B, ...] of one dtype; t, s: [B] float32. du/dt carries no gradient; u and aux do, so the loss costs one forward and one tangent
    pass, not two forwards. Integer conditions must be closed over by `velocity`: forward mode has no tangent for them.
    """
    u, derivative, aux = jax.jvp(lambda x, t: velocity(x, t, s), (x, t), (v.astype(x.dtype), jnp.ones_like(t)), has_aux=True)
    return u, jax.lax.stop_gradient(derivative), aux
