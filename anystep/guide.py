"""Guidance: Velocity -> Velocity, without memory.

CFG                 v = c + (w - 1)(c - u), exact at w = 1              (2207.12598)
energy-preserving   v |c| / |v|, one norm per sample over all axes      (2412.09966; minFM rescales the velocity, and so do we)
interval            w acts where low <= t <= high, elsewhere w = 1      (2404.07724)
jumps               False: w leaves alone what is asked for s = 0, where a network's jumps were trained under guidance
"""

import jax.numpy as jnp

from anystep.arrays import expand, norm


def classifier_free(null, scale, energy_preserving=False, interval=(0.0, jnp.inf), jumps=True):
    """A guide that extrapolates from the null prompt's Velocity `null` by `scale` (a number, [B] or traced), within `interval` of the
    path's time."""
    low, high = interval

    def guide(velocity):
        def guided(x, t, s):
            c, aux = velocity(x, t, s)
            u, _ = null(x, t, s)
            acts = (t >= low) & (t <= high) & (jumps | (s > 0))
            w = expand(jnp.where(acts, scale, 1.0), c)
            v = c + (w - 1.0) * (c - u)
            if energy_preserving:
                v = v * (norm(c) / jnp.maximum(norm(v), 1e-12))
            return jnp.where(w == 1.0, c, v), aux

        return guided

    return guide
