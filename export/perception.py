"""What a file makes of its pixels before its first convolution: other channels, another mean, another deviation."""

import dataclasses
import itertools

import numpy as np

PROBES, BLOCKS, SEED = 2, 8, 0
MARGIN = 2  # outputs at each side that see the padding, which stands for the mean
MOST_POINTS, FEWEST_POINTS = 50_000, 500
# An explanation is as good as the best if it leaves half as much again, or 40 dB less than what the layer gives.
AS_GOOD, NEGLIGIBLE = 1.5, 0.01
EXPLAINED = 0.5  # of the deviation has to be left by the best explanation, or it is none
SHIFT = 4.0  # pixel values: a mean that is off by less costs no accuracy worth a name
GAIN = 0.05
MIXED = 0.25  # of what a channel gives has to come from others
MOST_CHANNELS = 4  # whose orders are all tried


@dataclasses.dataclass(frozen=True)
class Perception:
    """The file's first convolution gives what the model's gives for `gains @ pixel + shifts`.

    `gains` is `(channels, channels)`, `shifts` `(channels,)` in pixel values.
    """

    gains: tuple[tuple[float, ...], ...]
    shifts: tuple[float, ...]

    @property
    def order(self):
        """The channel of the image that each channel of the model is given; None where several are mixed."""
        gains = np.abs(self.gains)
        order = np.argmax(gains, axis=1)
        kept = gains.max(axis=1)
        if sorted(order) != list(range(len(order))) or np.any(gains.sum(axis=1) - kept > MIXED * kept):
            return None
        return tuple(int(i) for i in order)

    @property
    def is_faithful(self):
        """Whether the pixels reach the network as they are, but for rounding."""
        gains = np.array(self.gains)
        return bool(np.abs(gains - np.eye(len(gains))).max() < GAIN and np.abs(self.shifts).max() < SHIFT)

    def pixels(self, images):
        """Raw pixels as the network inside the file sees them, float32."""
        seen = images.astype(np.float32) @ np.array(self.gains, np.float32).T
        return seen + np.array(self.shifts, np.float32)


def perceive(anatomy, name, held, images):
    """Measures how the file's normalisation differs from the model's.

    The first convolution is affine in its pixels. So what the file gives for an image is a weighted sum of what the
    model's convolution gives for each channel of the image put in the place of each channel of the input, and for a
    constant in each channel; the weights are found by least squares over coloured test patterns, at places where the
    file's numbers are not cut off by its activation or its range. That holds wherever and however the file normalises.
    Of several explanations that are equally good the simplest counts: a network that was trained on grey images hardly
    tells one channel from another.

    Args:
        anatomy: the `anatomy.Anatomy` of the float model.
        name: the layer whose result the file shows, one of `anatomy.linear_start`.
        held: the `execution.Held` that the file has for it.
        images: the pixels that it was run on, as `probes` makes them.

    Returns:
        A `Perception`, or None where no such change explains what the file holds.
    """
    linear, activation = anatomy.linear_start()
    shape = (len(images), *anatomy.shape(name))
    usable = _usable(held, rectified=name == activation).reshape(shape)
    start = linear[-1] if name == activation else name
    return _solved(anatomy, start, images, held.real.reshape(shape), usable)


def probes(shape):
    """Blocks of random colours: every channel varies by itself, and neighbours resemble each other."""
    height, width, channels = shape
    colours = np.random.default_rng(SEED).integers(0, 256, (PROBES, BLOCKS, BLOCKS, channels))
    rows, columns = np.arange(height) * BLOCKS // height, np.arange(width) * BLOCKS // width
    return colours[:, rows][:, :, columns].astype(np.uint8)


def _usable(held, rectified):
    usable = np.isfinite(held.real)
    if held.limits is not None:
        usable &= (held.values > held.limits[0]) & (held.values < held.limits[1])
    return usable & (held.real > 0) if rectified else usable


def _solved(anatomy, start, images, actual, usable):
    channels = images.shape[-1]
    inner = (slice(None), slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
    places = np.flatnonzero(usable[inner])
    if len(places) < FEWEST_POINTS:
        return None
    places = np.random.default_rng(SEED).permutation(places)[:MOST_POINTS]

    def response(channel=None, values=0.0):
        pixels = np.zeros(images.shape, np.float32)
        if channel is not None:
            pixels[..., channel] = values
        return anatomy.run([start], pixels)[start][inner].ravel()[places].astype(np.float64)

    nothing = response()
    # moved[i, j] is what channel j of the image adds where it stands in the place of channel i, raised[i] what one
    # pixel value more in channel i does.
    moved = np.array([[response(i, images[..., j]) - nothing for j in range(channels)] for i in range(channels)])
    raised = np.array([(response(i, 255.0) - nothing) / 255.0 for i in range(channels)])
    target = actual[inner].ravel()[places] - nothing
    fits = [_fitted(target, moved, raised, *explanation) for explanation in _explanations(channels)]
    left = [norm for norm, _, _ in fits]
    enough = max(AS_GOOD * min(left), NEGLIGIBLE * np.linalg.norm(np.einsum("iin->n", moved)))
    chosen = next(i for i, norm in enumerate(left) if norm <= enough)
    if chosen and left[chosen] > EXPLAINED * left[0]:
        return None
    return Perception(tuple(map(tuple, fits[chosen][1].tolist())), tuple(fits[chosen][2].tolist()))


def _explanations(channels):
    """`(order, gains, shifts)`, the simpler first: how many numbers stand for the gains and for the shifts of all
    channels, 0 for none, and an order of None for any mixture of channels.
    """
    same = tuple(range(channels))
    orders = list(itertools.permutations(same)) if channels <= MOST_CHANNELS else [same, same[::-1]]
    yield from ((order, 0, 0) for order in orders)
    yield from ((same, 0, 1), (same, 0, channels), (same, 1, 1), (same, channels, channels))
    yield from ((order, channels, channels) for order in orders[1:])
    yield None, channels, channels


def _fitted(target, moved, raised, order, gains, shifts):
    """`(norm of what is left, gains, shifts)` of one explanation, fitted to what the file gives."""
    channels = len(raised)
    if order is None:
        columns = [*moved.reshape(channels**2, -1), *raised]
        solution = np.linalg.lstsq(np.stack(columns, axis=1), target, rcond=None)[0]
        matrix, shift = solution[: channels**2].reshape(channels, channels), solution[channels**2 :]
    else:
        chosen = np.eye(channels)[list(order)]
        kept = moved[np.arange(channels), list(order)]
        columns = [*(kept if gains > 1 else [kept.sum(axis=0)] * gains)]
        columns += [*(raised if shifts > 1 else [raised.sum(axis=0)] * shifts)]
        rest = target if gains else target - kept.sum(axis=0)
        solution = np.linalg.lstsq(np.stack(columns, axis=1), rest, rcond=None)[0] if columns else np.zeros(0)
        scale = np.broadcast_to(solution[:gains] if gains else 1.0, channels)
        matrix = chosen * scale[:, None]
        shift = np.broadcast_to(solution[gains:] if shifts else 0.0, channels)
    given = np.einsum("ij,ijn->n", matrix, moved) + shift @ raised
    return np.linalg.norm(target - given), matrix, shift
