"""Names what is wrong with a file, from the figures, its layers, its first convolution and what it says of itself."""

import dataclasses
import itertools

import numpy as np

from export import comparison, layers, perception

CHANCE_DEVIATIONS = 3.3  # of one case in a thousand, one-sided
SATURATED_PERCENT = 1.0
WEIGHT_ERROR = 0.2  # 8 bits cost 0.01, 4 bits 0.1
FALL_DB = 6.0  # half of the amplitude
SHOWN_LETTERS = 40


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong, in a sentence; `fatal` where no accuracy on any images excuses it."""

    kind: str
    sentence: str
    fatal: bool


def find(report, evidence, source, said, path):
    """What is known to be wrong with a file.

    Args:
        report: a `verify.Report` without findings.
        evidence: the `verify.Evidence` behind it.
        source: the `source.Source` of the model.
        said: the `claims.Claims` of the file.
        path: the file, for a last resort: it is run again on pixels that are prepared wrongly.

    Returns:
        `Finding`s, the most certain first.
    """
    found = [
        *_file_labels(said, source),
        *_image_labels(evidence, source),
        *_weights(report.observation),
        *_pixels(report.seen, source),
        *_instructions(said, source),
        *_saturation(report.observation),
    ]
    if not found and comparison.Figures.failure(report):
        found = [*_preparation(path, evidence), *_fall(report.observation)]
    return tuple(found)


def _file_labels(said, source):
    for where, labels in said.labels.items():
        if labels == source.labels:
            continue
        what = f"{len(labels)} names for {len(source.labels)} classes"
        if len(labels) == len(source.labels):
            i = next(i for i in range(len(labels)) if labels[i] != source.labels[i])
            what = f"class {i} is {_shown(labels[i])} there and {_shown(source.labels[i])} in the model"
        yield Finding(
            "labels", f"The labels in the file's {where} are not those of the model in their order: {what}.", True
        )


def _image_labels(evidence, source):
    """Labels that the float model itself, which was right in training, contradicts."""
    if evidence.labels is None:
        return
    answers, labels = evidence.reference.argmax(axis=1), evidence.labels
    right, present = answers == labels, np.unique(labels)
    called = {label: int(np.bincount(answers[labels == label]).argmax()) for label in present.tolist()}
    moved = [label for label in called if called[label] != label]
    renamed = np.array([called[label] for label in labels.tolist()]) == answers
    if moved and len(set(called.values())) == len(called) and comparison.exceeds_chance(right, renamed):
        yield Finding(
            "evaluation labels",
            f"The labels of the images are not those of the model in their order: what is labelled "
            f"{_shown(source.labels[moved[0]])} the float model calls {_shown(source.labels[called[moved[0]]])}, and "
            f"it is right on {100 * renamed.mean():.1f} % of the images when {len(moved)} classes are renamed so, "
            f"against {100 * right.mean():.1f} %.",
            True,
        )
        return
    classes = evidence.reference.shape[1]
    shares = (np.bincount(values, minlength=classes) / len(labels) for values in (answers, labels))
    chance, promised = float(np.dot(*shares)), float(evidence.reference.max(axis=1).mean())
    # A quarter of the way from chance to what its probabilities promise: no change of scene does that to a model.
    limit = chance + (promised - chance) / 4
    telling = limit - chance > CHANCE_DEVIATIONS * np.sqrt(chance * (1 - chance) / len(labels))
    if telling and right.mean() < limit:
        yield Finding(
            "evaluation labels",
            f"The labels do not belong to the images: the float model is right on {100 * right.mean():.1f} % of them, "
            f"where chance gives {100 * chance:.1f} % and its own probabilities promise {100 * promised:.1f} %.",
            True,
        )


def _pixels(seen, source):
    if seen is None or seen.is_faithful:
        return
    if np.abs(seen.gains).max() < perception.GAIN:
        yield Finding("pixels", "The file's first layer does not see the image.", True)
        return
    order = seen.order
    if order is None:
        yield Finding("pixels", "The file's first layer mixes the channels of the image before it looks at them.", True)
        return
    if order != tuple(range(len(order))):
        names = ", ".join(("red", "green", "blue")[i] if len(order) == 3 else str(i) for i in order)
        yield Finding("channels", f"The file takes the channels in another order than the model: {names}.", True)
        return
    gains, shifts = np.diag(np.array(seen.gains)), np.array(seen.shifts)
    mean, std = (np.broadcast_to(x, gains.shape) for x in (source.preprocess.mean, source.preprocess.std))
    inside = {"mean": ((mean - shifts) / gains, mean), "standard deviation": (std / gains, std)}
    wrong = [
        f"a {name} of {_numbers(theirs)} where the model has {_numbers(own)}"
        for name, (theirs, own) in inside.items()
        if np.abs(theirs / own - 1).max() > perception.GAIN / 2
    ]
    yield Finding("normalisation", f"The file normalises its pixels with {' and '.join(wrong)}.", True)


def _instructions(said, source):
    own, theirs = source.preprocess.to_dict(), said.preprocess or {}
    differing = [name for name in own if name in theirs and not np.array_equal(own[name], theirs[name])]
    if differing:
        what = ", ".join(f"{name} {_shown(theirs[name])} instead of {own[name]}" for name in differing)
        yield Finding("record", f"The file's record has apps prepare images otherwise than the model: {what}.", True)
    if said.normalisation is not None:
        mean, std = said.normalisation
        yield Finding(
            "metadata",
            f"The file's metadata tells apps to normalise with mean {_shown(mean)} and std {_shown(std)}, which is not "
            "what its input tensor means.",
            True,
        )


def _weights(observation):
    if observation is None:
        return
    zeroed = [weights.name for weights in observation.weights if weights.zeroed]
    if zeroed:
        more = f" and of {len(zeroed) - 1} more layers" if zeroed[1:] else ""
        yield Finding("weights", f"All weights of {zeroed[0]}{more} are 0 in the file.", True)
        return
    for layer in observation.layers:
        if layer.constant and (layer.saturated_percent or 0) < 50:
            yield Finding("constant", f"{layer.name} gives the same values in the file whatever the image is.", False)
            break
    # The first convolution has the normalisation in it, in one form or another.
    compared = [weights for weights in observation.weights[1:] if weights.error is not None]
    wrong = [weights for weights in compared if weights.error > WEIGHT_ERROR]
    if len(wrong) > len(compared) / 2:
        yield Finding("weights", "The weights in the file are those of another model or of another checkpoint.", False)
    elif wrong:
        worst = max(wrong, key=lambda weights: weights.error)
        yield Finding(
            "weights",
            f"The weights of {worst.name} are not the model's: they differ by {100 * worst.error:.0f} % of their norm.",
            False,
        )


def _saturation(observation):
    worst = observation and observation.fullest
    if worst and worst.saturated_percent > SATURATED_PERCENT:
        counted = [x for x in observation.layers if x.values >= layers.ENOUGH_VALUES]
        full = [x for x in counted if (x.saturated_percent or 0) > SATURATED_PERCENT]
        yield Finding(
            "saturation",
            f"The ranges of {len(full)} layers are too narrow, first that of {full[0].name}; in {worst.name} "
            f"{worst.saturated_percent:.1f} % of the values are cut off. Calibrate with images like those of the app.",
            False,
        )


def _preparation(path, evidence):
    """Whether the file would answer as the model does if its pixels came otherwise."""
    from export import doctor, execution, parts
    from resnet_keras import cli

    chosen = parts.chosen(len(evidence.images))[:: max(1, parts.MOST_IMAGES // doctor.IMAGES)]
    images, expected = evidence.images[chosen].astype(np.float32), evidence.reference[chosen].argmax(axis=1)
    ways = doctor.VALUES if images.shape[-1] == 3 else {doctor.CONTRACT: doctor.VALUES[doctor.CONTRACT]}
    with cli.bar("trying other pixels", len(ways) * len(images), "images") as advance:
        agree = {
            name: execution.predict(path, values(images), advance).argmax(axis=1) == expected
            for name, values in ways.items()
        }
    best = max(agree, key=lambda name: agree[name].sum())
    if comparison.exceeds_chance(agree[doctor.CONTRACT], agree[best]):
        yield Finding(
            "preprocessing",
            f"The file wants {best}: then {100 * agree[best].mean():.1f} % of its answers are the float model's, "
            f"against {100 * agree[doctor.CONTRACT].mean():.1f} % with {doctor.CONTRACT}.",
            True,
        )


def _fall(observation):
    """The layer at which the signal to noise falls furthest."""
    known = [x for x in observation.layers if x.snr_db is not None] if observation else []
    pairs = [(before.snr_db - after.snr_db, before, after) for before, after in itertools.pairwise(known)]
    if known and known[0].snr_db < FALL_DB:
        yield Finding("noise", f"The file differs from the model from {known[0].name} on, its first layer.", False)
    elif pairs and max(pairs, key=lambda pair: pair[0])[0] > FALL_DB:
        _, before, after = max(pairs, key=lambda pair: pair[0])
        yield Finding(
            "noise",
            f"Most is lost at {after.name}: a signal to noise of {before.snr_db:.1f} dB before it, "
            f"{after.snr_db:.1f} dB behind it.",
            False,
        )


def _shown(value):
    """Foreign text in quotes, without what a terminal takes for a command, and not too long."""
    text = value if isinstance(value, str) else str(value)
    return repr(text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}...")


def _numbers(values):
    if np.ptp(values) < 1:
        return f"{values.mean():.3g}"
    return f"({', '.join(f'{value:.3g}' for value in values)})"
