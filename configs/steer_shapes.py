"""Coloured shapes at 16 pixels whose captions get the relation wrong, as captions of the web do: a base for steering.

    anystep train --config steer_shapes --workdir runs/steer_shapes
    anystep steer-train --model runs/steer_shapes --out runs/light --rows 16384 --steps 1,2,4 --amortise 3000
    anystep steer-train --model runs/steer_shapes --out runs/published --kind faithful_small --rows 16384 --steps 1,2,4
    anystep bench steer --model runs/steer_shapes --classifier runs/light --classifier runs/published --steps 1,2,4 --split test \
        --rows runs/rows.jsonl

Many steps walk by Euler asking now, for the drawings that a classifier learns from and for those that it steers:

    anystep steer-train --model runs/steer_shapes --out runs/euler --sampler euler --ask now --rows 6144 --steps 4,32 --first 4 \
        --amortise 2000
    anystep bench steer --model runs/steer_shapes --classifier runs/euler --sampler euler --ask now --steps 4,32 --split test \
        --rows runs/rows_euler.jsonl

What classifiers learn from and read, in `steer_sources_16px_cpu.json`: `steer-train --rows 6144 --steps 1,2,4` alone (policy), with
--layers 0, --layers 0,1,2,3 (all), --source noised, --source noised --wrong no (true_only), --kind faithful_small --train 300, and
--kind faithful_small --unscaled --train 1000 (published).

Hardware   2 CPU cores
Time       41 minutes on one core
Result     400 held-out prompts of the tag position, their relation right (both objects there) without steering .22 (.54) at 1 step,
           .32 (.79) at 2, .35 (.92) at 4, `fast` .79, .92, .80, all else in `steer_16px_cpu.json`. A quarter of the training drew .11
           (.33), .19 (.56), .24 (.67), `fast` .71, .83, .58

Of 100 captions of two related objects 35 say another relation, 30 none ("and"), and 35 what the picture shows. Else this is `shapes`,
trained four times as long, so that the objects should be drawn as well as there. For prompts of two and three relations a base must have
seen three and four different objects; the records `steer_chain2` and `steer_chain3` are of

    anystep train --config steer_shapes --config.data.chain=3 --config.model.text.length=28 --config.train.steps=3200 \
        --config.objective.consistency.start=1600 --workdir runs/chain
    anystep steer-train --model runs/chain --out runs/light_chain --rows 12288 --steps 4,32 --sampler euler --ask now --first 4
    anystep bench steer --model runs/chain --classifier chain=runs/light_chain --sampler euler --ask now --steps 4 --relations 2 \
        --methods "none,best,faithful,fast,fast:steps=4" --rows runs/rows_chain.jsonl --split test
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            seed=0,
            data=dict(
                kind="shapes",
                batch=64,
                size=16,
                shapes=("ring", "square", "triangle", "cross"),
                colors=("red", "green", "blue", "yellow", "purple", "black"),
                max_objects=3,
                color_words=1.0,
                wrong_relation=0.35,
                missing_relation=0.3,
                chain=1,
            ),
            model=dict(
                net="sana",
                width=128,
                depth=4,
                double=0,
                heads=4,
                patch=4,
                attention="softmax",
                cross_heads=4,
                ffn="mlp",
                mlp_ratio=4.0,
                positions="sincos",
                qk_norm=True,
                stem=64,
                predicts="x0",
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
                shift=0.78,
                scale=0.4,
                text=dict(encoder="hashed", folder="", digest="", vocabulary=2048, length=14, width=64, depth=2, heads=4),
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
                    start=3200,
                    at_zero=1.0,
                    s_min=0.0,
                    nodes=4,
                    hops=2,
                    velocity="ema",
                    guidance=2.0,
                    interval=(0.0, 0.95),
                    at_noise=0.6,
                    warmup=0,
                    form="linear",
                    tangent_norm="none",
                    tangent_constant=0.1,
                    prior=False,
                    weighting="l1",
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
            optim=dict(name="muon", lr=3e-3, final_lr=0.05, warmup=50, b1=0.9, b2=0.99, muon_rms=0.6, weight_decay=0.0, clip=1.0, ema=0.99),
            train=dict(
                steps=6400,
                log_every=20,
                sample_every=1600,
                also="none",
                guard=dict(sigma=6.0, window=128, patience=20, rewinds=3),
            ),
            eval=dict(
                steps=(1, 2, 4, 8, 32),
                prompts=64,
                scale=2.0,
                energy_preserving=False,
                interval=(0.0, 0.95),
                sampler="restart",
                ask="zero",
                eta=1.0,
            ),
            mesh=dict(data=-1, fsdp=1),
            checkpoint=dict(every=800, keep=2),
            init_from="",
        )
    )
