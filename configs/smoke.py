"""A mixture in the plane and a small MLP: every objective and every part of training in seconds.

    anystep train --config smoke --workdir runs/smoke

Hardware   any CPU
Time       about 20 seconds
Result     samples/200.png: points on the grey discs of their modes; most of them (about .8) at every number of steps
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            seed=0,
            data=dict(kind="mixture2d", batch=64, size=1, modes=8),
            model=dict(
                net="mlp",
                width=64,
                depth=3,
                double=0,
                heads=1,
                patch=1,
                attention="softmax",
                cross_heads=1,
                ffn="mlp",
                mlp_ratio=2.0,
                positions="none",
                qk_norm=False,
                stem=0,
                predicts="v",
                time_frequency=4.0,
                time_span=16.0,
                second_time=True,
                guidance=False,
                control=0,
                rank=0,
                frozen=False,
                scan=False,
                remat=False,
                dtype="float32",
                shift=0.0,
                scale=0.5,
                text=dict(encoder="hashed", folder="", digest="", vocabulary=256, length=5, width=32, depth=1, heads=2),
            ),
            path=dict(name="linear"),
            objective=dict(
                time=dict(law="logit_normal", mean=0.0, std=1.0, shift=1.0, base_tokens=0),
                prompt_dropout=0.1,
                control_dropout=0.0,
                teacher=dict(folder="", digest="", scales=(1.0,), null_mask="own"),
                flow_matching=dict(share=2, weight=1.0, weighting="none"),
                self_evaluation=dict(
                    share=1,
                    weight=1.0,
                    start=0,
                    s_min=0.1,
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
                    weight=1.0,
                    start=0,
                    at_zero=1.0,
                    s_min=0.0,
                    nodes=0,
                    hops=1,
                    velocity="data",
                    guidance=1.0,
                    interval=(0.0, 1.0),
                    at_noise=0.0,
                    warmup=0,
                    form="linear",
                    tangent_norm="clip",
                    tangent_constant=0.1,
                    prior=False,
                    weighting="adaptive",
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
            optim=dict(name="adamw", lr=2e-3, final_lr=0.1, warmup=10, b1=0.9, b2=0.99, muon_rms=0.2, weight_decay=0.0, clip=1.0, ema=0.99),
            train=dict(
                steps=200,
                log_every=10,
                sample_every=100,
                also="none",
                guard=dict(sigma=6.0, window=128, patience=20, rewinds=3),
            ),
            eval=dict(
                steps=(1, 2, 4),
                prompts=256,
                scale=1.0,
                energy_preserving=False,
                interval=(0.0, 1.0),
                sampler="euler",
                ask="next",
                eta=1.0,
            ),
            mesh=dict(data=-1, fsdp=1),
            checkpoint=dict(every=100, keep=2),
            init_from="",
        )
    )
