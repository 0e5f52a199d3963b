"""From a folder of photos to a bundle for the app.

    python examples/finetune.py photos/ --bundle flowers/          photos/CLASS/*.jpg

Gives published ImageNet weights a new head, trains them on the photos, quantizes the network, proves the files on
photos that it was not trained with, and packs them with code for Kotlin, Swift, C++, Python and JavaScript. After an
interruption the same command goes on where it was.
"""

import argparse
import pathlib

from resnet_keras import cli


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python examples/finetune.py", description=__doc__.split("\n")[0])
    parser.add_argument("photos", help="folder with a subfolder of images for each class")
    parser.add_argument("--bundle", default="bundle", metavar="DIR", help="folder to write (default: bundle)")
    parser.add_argument("--run", default="runs/finetune", metavar="DIR", help="where training leaves its result")
    parser.add_argument("--model", default="resnet18", help="the smaller, the faster on a phone (default: resnet18)")
    parser.add_argument("--weights", default="imagenet", help="what to start from: a published tag, a file or a run")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the photos (default: 10)")
    args = parser.parse_args(arguments)

    cli.import_keras()
    from export import bundle
    from resnet_keras import recipes
    from resnet_keras.train import train

    changes = {"data": args.photos, "model": args.model, "weights": args.weights, "epochs": args.epochs}
    with cli.going_on("The same command goes on."):
        card = train(recipes.get("finetune").with_changes(**changes), pathlib.Path(args.run), resume=True)
    for part, measured in card["accuracy_percent"].items():
        print(f"{part}: {measured['top1']:.2f} % of {measured['images']} photos, in Keras")

    _, exports, failure = bundle.write(args.bundle, args.run, recipe="int8", targets=["app", "web"])
    for record, report in exports:
        print(f"{record['file']}: {report.top1_percent:.2f} %, {record['size_bytes'] / 1e6:.1f} MB")
    if not failure:
        print(f"wrote {args.bundle}; see it in a browser: python -m export.serve {args.bundle}")
    return cli.gate(failure)


if __name__ == "__main__":
    cli.run(main)
