"""The built-in prompt encoder, trained along with the network: hashed words, learned positions, a convolution
over three words (an adjective meets its noun at once), a few bidirectional transformer layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from anystep.nets.attention import Attention
from anystep.nets.blocks import Mlp
from anystep.nets.text.tokenizer import place, prepend, tokenize
from anystep.types import Text


class Encoder(nn.Module):
    vocabulary: int
    width: int
    depth: int
    heads: int

    @nn.compact
    def __call__(self, tokens):
        mask = tokens[..., 0] > 0
        words = nn.Embed(self.vocabulary, self.width, embedding_init=nn.initializers.normal(1.0), name="words")(tokens).sum(axis=-2)
        positions = self.param("positions", nn.initializers.normal(0.5), (tokens.shape[1], self.width))
        x = words + positions[None]
        x = x + nn.Conv(self.width, (3,), name="neighbours")(jnp.where(mask[..., None], x, 0.0))
        for layer in range(self.depth):
            y = nn.RMSNorm(name=f"norm_{layer}a")(x)
            x = x + Attention(self.heads, name=f"attention_{layer}")(y, mask=mask)[0]
            x = x + Mlp(name=f"mlp_{layer}")(nn.RMSNorm(name=f"norm_{layer}b")(x))
        return {"features": nn.RMSNorm(name="norm_out")(x), "mask": mask}


def build(vocabulary=2048, length=16, width=128, depth=2, heads=4) -> Text:
    """A Text role: tokens [B, length, 2] -> features [B, length, width] float32 and mask [B, length]."""
    module = Encoder(vocabulary, width, depth, heads)
    return Text(
        init=lambda key: module.init(key, jnp.zeros((1, length, 2), jnp.int32))["params"],
        tokenize=lambda prompts: tokenize(prompts, vocabulary, length),
        encode=jax.named_call(lambda params, tokens: module.apply({"params": params}, tokens), name="text"),
        prepend=lambda words, tokens: prepend(words, tokens, vocabulary),
        place=lambda prompt, span: place(prompt, span, length),
    )
