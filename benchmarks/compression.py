"""What compression gains over plain int8 on Fashion-MNIST: trains and compresses each seed, or goes on with it.

python benchmarks/compression.py --json benchmarks/results/compression.json      (hours on two cores)
"""

import argparse
import pathlib

from reporting import finish

from resnet_keras import checkpoint, cli

RECIPE = "fashion"
SEEDS = (0, 1, 2)
WORK = {  # of each model: what the run is called, and the arguments of `export.compress.compress`
    "resnet8": {"qat": {"qat": True}},
    "resnet20": {"qat": {"qat": True}, "prune50_cluster16_qat": {"prune": 0.5, "cluster": 16, "qat": True}},
}


def trained(model, seed, directory):
    """The run directory of a model, which is trained unless it is there."""
    import dataclasses

    from resnet_keras import recipes
    from resnet_keras.train import train

    run = directory / f"{model}-seed{seed}"
    if not (run / checkpoint.MODEL).exists():
        recipe = dataclasses.replace(recipes.get(RECIPE), model=model)
        train(recipe, run, seed=seed, resume=(run / "run.json").exists())
    return run


def compressed(run, name, arguments):
    """The card of a compressed run, which is made unless it is there."""
    from export.compress import compress

    out = run.with_name(f"{run.name}-{name}")
    if not (out / checkpoint.CARD).exists():
        compress(run, **arguments, out=out, resume=True)
    return checkpoint.load_card(out)


def _result(model, seed, name, found):
    full, plain, own = found["files"]
    return {
        "model": model,
        "seed": seed,
        "rounds": name,
        "stages": found["stages"],
        "test_images": own["figures"]["images"],
        "float_percent": full["figures"]["top1_percent"],
        "plain_int8_percent": plain["figures"]["top1_percent"],
        "percent": own["figures"]["top1_percent"],
        "drop_points": own["figures"]["drop_points"],
        "drop_interval_points": own["figures"]["drop_interval_points"],
        "over_plain": found["over_plain"],
        "agreement_percent": {
            "plain": plain["figures"]["agreement_percent"],
            "own": own["figures"]["agreement_percent"],
        },
        "size_bytes": {"plain": plain["size_bytes"], "own": own["size_bytes"]},
        "zipped_bytes": {"plain": plain["zipped_bytes"], "own": own["zipped_bytes"]},
        "zero_percent": own["zero_percent"],
        "distinct_weights_of_a_layer": own["distinct"],
        "npu": {"plain": plain["npu"], "own": own["npu"]},
        "same_as_trained_percent": found["same_as_trained_percent"],
    }


def _row(result):
    low, high = result["over_plain"]["interval_points"]
    sizes, npu = result["zipped_bytes"], result["npu"]
    smaller = f"zipped {sizes['own'] / sizes['plain']:.2f} of plain int8's"
    if npu["own"]:  # else Vela is not installed
        weights = [npu[side]["compressed_weights_bytes"] for side in ("own", "plain")]
        smaller += f", NPU weights {weights[0] / weights[1]:.2f}"
    return (
        f"{result['model']}, seed {result['seed']}, {result['rounds']}",
        f"{result['percent']:.2f} % (float {result['float_percent']:.2f} %, plain int8 "
        f"{result['plain_int8_percent']:.2f} %; gain {result['over_plain']['gain_points']:+.2f}, 95 % interval "
        f"{low:+.2f} to {high:+.2f}); {smaller}",
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/accuracy"), help="where the runs lie")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many of the seeds 0, 1 and 2")
    parser.add_argument("--json", type=pathlib.Path, help="write the result here")
    args = parser.parse_args()
    cli.import_keras()
    results = [
        _result(model, seed, name, compressed(trained(model, seed, args.runs), name, arguments)["compression"])
        for model, work in WORK.items()
        for name, arguments in work.items()
        for seed in SEEDS[: args.seeds]
    ]
    return finish([_row(result) for result in results], results, args.json)


if __name__ == "__main__":
    cli.run(main)
