"""What is done to a tangent or a loss so that training stays calm. Each is the identity at its "none".

clip    g min(1, 1 / rms(g))               bounds the tangent's root mean square at 1
l2      g / (|g| + c)                      sCM and the released SANA-Sprint loop (2410.11081, Eq. 8); 0.1 at deviation 0.5 is 0.2 here
rms     g / (rms(g) + c)                   the same with a norm that does not depend on the resolution
adaptive   loss / sg(loss + c)^p           MeanFlow (2505.13447, Sec. 4.3): c = 0.01, p = 1
huber      the same with p = 1/2           the gradient of the pseudo-Huber loss of improved consistency training (2310.14189), doubled
l1         mean of sqrt(d^2 + c^2) - c     that loss of each number by itself, c = 0.05 of the data's deviation: drawn to the median
"""

import jax
import jax.numpy as jnp

from anystep.arrays import mean, norm, rms


def calm(tangent, kind, c=0.1):
    """Normalises a tangent [B, ...] by `kind`: "none" | "clip" | "l2" | "rms"."""
    if kind == "clip":
        return tangent / jnp.maximum(rms(tangent), 1.0)
    if kind == "l2":
        return tangent / (norm(tangent) + c)
    if kind == "rms":
        return tangent / (rms(tangent) + c)
    return tangent


def weighted(loss, kind, c=0.01):
    """Loss per sample [B] by `kind`: "none", or divided by its own stopped value so that large errors count less, "adaptive" | "huber"."""
    return loss / jax.lax.stop_gradient(loss + c) ** {"none": 0.0, "huber": 0.5, "adaptive": 1.0}[kind]


def l1(miss, c=0.05):
    """[B, ...] -> [B]: the absolute value, rounded below c."""
    return mean(jnp.sqrt(jnp.square(miss.astype(jnp.float32)) + c * c) - c)
