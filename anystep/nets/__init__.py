"""Networks: the only folder that imports flax.linen. Import order inside: attention, blocks, autoencoder, dcae, kl, text/, sana,
controlnet, low_rank, mmdit, mlp, discrete, unet, discriminator, logvar, relation, correction, build.

Linen is used for the shapes of parameters and for `apply`, nothing else: no sow, no variables besides params, no lifted transforms.
Layers are stacked by `jax.vmap` at init and walked by `jax.lax.scan`, so that `lo..hi` of a network is a slice of its parameters.
"""
