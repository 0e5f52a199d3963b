"""Accuracy of the recipe for Fashion-MNIST: trains each seed, or goes on with it, and collects what the cards say.

python benchmarks/fashion_accuracy.py --json benchmarks/results/fashion_accuracy.json      (hours on two cores)
"""

import argparse
import pathlib

from reporting import finish

from resnet_keras import checkpoint, cli

RECIPE, SEEDS = "fashion", (0, 1, 2)


def trained(seed, directory):
    """The card of one run, which is trained unless it is there."""
    from resnet_keras import recipes
    from resnet_keras.train import train

    run = directory / f"resnet20-seed{seed}"
    if not (run / checkpoint.MODEL).exists():
        train(recipes.get(RECIPE), run, seed=seed, resume=(run / "run.json").exists())
    return checkpoint.load_card(run)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/accuracy"), help="where the runs lie")
    parser.add_argument("--json", type=pathlib.Path, help="write the result here")
    args = parser.parse_args()
    cli.import_keras()
    results = []
    for seed in SEEDS:
        card = trained(seed, args.runs)
        accuracy = card["accuracy_percent"]
        results.append(
            {
                "recipe": RECIPE,
                "model": card["model"],
                "seed": seed,
                "epochs": card["recipe"]["epochs"],
                "minutes": round(card["training_seconds"] / 60, 1),
                "validation_percent": accuracy["validation"]["top1"],
                "test_percent": accuracy["test"]["top1"],
            }
        )
    rows = [
        (f"{r['recipe']}, {r['model']}, seed {r['seed']}", f"{r['test_percent']:.2f} % in {r['minutes']:.0f} min")
        for r in results
    ]
    return finish(rows, results, args.json)


if __name__ == "__main__":
    cli.run(main)
