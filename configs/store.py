"""Pictures and prompts that were encoded once, by `anystep encode`: neither the autoencoder nor the text encoder is in memory.

    anystep encode --path FOLDER --size 256 --pipeline PIPELINE --out STORE
    anystep train --config store --config.data.path=STORE --workdir runs/store

Input      a store. Sizes of latents and features are the store's; model.text.encoder = hashed or minilm reads its prompts as texts instead
Hardware   one GPU or TPU; two cores take a store of small pictures, with a smaller --config.model.width
Time       not measured
Result     samples/<step>.png: held-out captions, as pictures with data.autoencoder, else the first three channels of their latents. shift
           and scale are for latents of unit deviation; `anystep encode` prints those of the store
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            seed=0,
            data=dict(
                kind="store",
                batch=64,
                path="",
                weights=(1.0,),
                dev_share=0.05,
                pipeline="",
                autoencoder="",
                verify=True,
                holds=(),
                key="",
            ),
            model=dict(
                net="sana",
                width=384,
                depth=12,
                double=0,
                heads=6,
                patch=1,
                attention="softmax",
                cross_heads=6,
                ffn="mlp",
                mlp_ratio=4.0,
                positions="sincos",
                qk_norm=True,
                stem=0,
                predicts="x0",
                time_frequency=4.0,
                time_span=16.0,
                second_time=True,
                guidance=False,
                control=0,
                rank=0,
                frozen=False,
                scan=True,
                remat=False,
                dtype="bfloat16",
                shift=0.0,
                scale=1.0,
                text=dict(encoder="stored", folder="", digest="", vocabulary=8192, length=24, width=96, depth=2, heads=4),
            ),
            path=dict(name="linear"),
            objective=dict(
                time=dict(law="logit_normal", mean=0.0, std=1.0, shift=3.0, base_tokens=0),
                prompt_dropout=0.1,
                control_dropout=0.0,
                teacher=dict(folder="", digest="", scales=(1.0,), null_mask="own"),
                flow_matching=dict(share=1, weight=1.0, weighting="none"),
                self_evaluation=dict(
                    share=0,
                    weight=1.0,
                    start=0,
                    s_min=0.25,
                    anneal=0,
                    renorm=True,
                    weighting="none",
                    dropped="diagonal",
                    auxiliary_k=1.0,
                    auxiliary_start=0,
                    auxiliary_warmup=0,
                    auxiliary_weight=1.0,
                ),
                consistency=dict(
                    share=1,
                    weight=1.5,
                    start=8000,
                    at_zero=1.0,
                    s_min=0.0,
                    nodes=6,
                    hops=1,
                    velocity="ema",
                    guidance=2.0,
                    interval=(0.0, 0.95),
                    at_noise=0.25,
                    warmup=0,
                    form="linear",
                    tangent_norm="none",
                    tangent_constant=0.1,
                    prior=False,
                    weighting="huber",
                ),
                adversarial=dict(
                    share=0,
                    weight=1.0,
                    blocks=(0,),
                    at_noise=0.5,
                    mean=0.0,
                    std=1.0,
                    one_level=False,
                    misaligned=True,
                    rate=1.0,
                ),
            ),
            optim=dict(
                name="muon", lr=1e-3, final_lr=0.1, warmup=500, b1=0.9, b2=0.99, muon_rms=0.6, weight_decay=0.0, clip=1.0, ema=0.999
            ),
            train=dict(
                steps=20000,
                log_every=100,
                sample_every=2000,
                also="none",
                guard=dict(sigma=6.0, window=128, patience=20, rewinds=3),
            ),
            eval=dict(
                steps=(1, 2, 4, 8, 32),
                prompts=16,
                scale=2.0,
                energy_preserving=False,
                interval=(0.0, 0.95),
                sampler="restart",
                ask="zero",
                eta=1.0,
            ),
            mesh=dict(data=-1, fsdp=1),
            checkpoint=dict(every=1000, keep=2),
            init_from="",
        )
    )
