"""SANA-Sprint's recipe on FLUX: dev, whose network is told its guidance, teaches a copy of itself 1 to 4 steps.

    anystep encode --path PICTURES --size 1024 --pipeline FLUX --out STORE
    anystep train --config sprint_flux --workdir runs/sprint --config.data.path=STORE --config.mesh.fsdp=32 \
        --config.data.autoencoder=FLUX --config.objective.teacher.folder=FLUX --config.init_from=FLUX

Starts from   the teacher, its embedding of the scale included
Images seen   10,000 steps of 128: 1.3 million, every other batch for the heads
Hardware      32 or more accelerators of 80 GB: teacher and student have 11.9 billion parameters each, which fsdp splits
Cost          4.9e16 FLOP a step, 4.9e20 in all (--dry_run)
Time          not measured
Result        not measured; the shapes of a step are checked, nothing of it was ever run at this size

A teacher that is told the scale is asked once: nothing is extrapolated, and the same scale is told to the student. Heads look at two double
and two single blocks. Latents of 128 x 128 x 16 are cut into patches of 2 x 2.

FLUX's clock counts to 1,000 and stays: SANA-Sprint lets its teachers learn one that counts to 1 first, because the derivative by the time
grows with the clock (2503.09641, 3.2). Here only the norm of the tangent and its warm-up stand against that, which was not tried; steps
over a grid (--config.objective.consistency.nodes, see configs/sprint_shapes.py) take no derivative.
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            seed=0,
            data=dict(
                kind="store",
                batch=128,
                path="",
                weights=(1.0,),
                dev_share=0.001,
                pipeline="",
                autoencoder="",
                verify=True,
                holds=(128, 128, 16, 512, 4096, 768),
                key="",
            ),
            model=dict(
                net="mmdit",
                width=3072,
                depth=57,
                double=19,
                heads=24,
                patch=2,
                attention="softmax",
                cross_heads=24,
                ffn="mlp",
                mlp_ratio=4.0,
                positions="none",
                qk_norm=True,
                stem=0,
                predicts="v",
                time_frequency=1.0,
                time_span=10000.0,
                second_time=False,
                guidance=True,
                control=0,
                rank=0,
                frozen=False,
                scan=True,
                remat=True,
                dtype="bfloat16",
                shift=0.0,
                scale=1.0,
                text=dict(encoder="stored", folder="", digest="", vocabulary=8192, length=512, width=64, depth=2, heads=4),
            ),
            path=dict(name="linear"),
            objective=dict(
                time=dict(law="logit_normal", mean=-0.206, std=1.6, shift=3.0, base_tokens=0),
                prompt_dropout=0.0,
                control_dropout=0.0,
                teacher=dict(folder="", digest="", scales=(2.5, 3.5, 4.5), null_mask="own"),
                flow_matching=dict(share=0, weight=1.0, weighting="none"),
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
                    weight=2.0,
                    start=0,
                    at_zero=1.0,
                    s_min=0.0,
                    nodes=0,
                    hops=1,
                    velocity="teacher",
                    guidance=1.0,
                    interval=(0.0, 1.0),
                    at_noise=0.0,
                    warmup=2000,
                    form="trig",
                    tangent_norm="rms",
                    tangent_constant=0.2,
                    prior=False,
                    weighting="learned",
                ),
                adversarial=dict(
                    share=1,
                    weight=1.0,
                    blocks=(6, 14, 28, 42),
                    at_noise=0.5,
                    mean=0.093,
                    std=1.0,
                    one_level=False,
                    misaligned=True,
                    rate=1.0,
                ),
            ),
            optim=dict(
                name="adamw", lr=2e-6, final_lr=1.0, warmup=2500, b1=0.9, b2=0.999, muon_rms=0.2, weight_decay=0.0, clip=0.1, ema=0.999
            ),
            train=dict(
                steps=10000,
                log_every=100,
                sample_every=1000,
                also="none",
                guard=dict(sigma=6.0, window=128, patience=20, rewinds=3),
            ),
            eval=dict(
                steps=(1, 2, 4),
                prompts=8,
                scale=3.5,
                energy_preserving=False,
                interval=(0.0, 1.0),
                sampler="restart",
                ask="zero",
                eta=1.0,
            ),
            mesh=dict(data=-1, fsdp=1),
            checkpoint=dict(every=500, keep=2),
            init_from="",
        )
    )
