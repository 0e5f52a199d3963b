"""Batches from files: the right pixels, the same whatever was made before, by whom, and by how many threads."""

import io
import itertools
import os
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from resnet_keras import augment, cropping, data, feed, folders, mixing, pipeline, tfrecord
from resnet_keras.preprocessing import Preprocess
from resnet_keras.recipes import Recipe

CLASSES = 3
PLAIN = Recipe(batch_size=16, size=32)
EVERYTHING = PLAIN.with_changes(
    rand_augment_ops=2, mixup_alpha=0.2, cutmix_alpha=1.0, erase_pixels=8, erase_probability=0.5
)


def photo(height, width, seed=0):
    """Smooth colours with some texture, as `uint8`."""
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    return np.clip(np.asarray(smooth) + rng.normal(0, 8, (height, width, 1)), 0, 255).astype(np.uint8)


def encoded_bytes(pixels, kind="JPEG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """90 images of many sizes in three classes; some are PNG, grey, or turned."""
    root = tmp_path_factory.mktemp("images")
    tag = Image.Exif()
    tag[0x0112] = 6
    for i in range(90):
        path = root / f"class{i % CLASSES}" / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        picture = photo(40 + i, 130 - i, seed=i)
        options = {0: {"kind": "PNG"}, 1: {"exif": tag}}.get(i % 10, {"quality": 92})
        path.write_bytes(encoded_bytes(picture[..., 0] if i % 10 == 2 else picture, **options))
    return root


@pytest.fixture(scope="module")
def split(folder):
    return data.load(folder).train


@pytest.fixture(scope="module")
def records(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("records") / "set"
    tfrecord.convert(folder, out, 4)
    return data.load(out, ()).train


def batches(split, recipe, seed=3, epoch=1, **options):
    return list(pipeline.training_batches(split, recipe, CLASSES, seed, epoch, **options).as_numpy_iterator())


def same(some, others):
    return len(some) == len(others) and all(
        np.array_equal(a, b) for pair in zip(some, others, strict=True) for a, b in zip(*pair, strict=True)
    )


class TestOrder:
    def test_each_image_once_and_another_order_each_epoch(self, split, records):
        for part in (split, records):
            first = pipeline.order(part, 0, 0)
            assert sorted(first.tolist()) == list(range(len(part)))
            assert first.dtype == np.int64
            assert (first == pipeline.order(part, 0, 0)).all()
            assert (first != pipeline.order(part, 0, 1)).mean() > 0.8
            assert (first != pipeline.order(part, 1, 0)).mean() > 0.8

    def test_repeats_come_in_a_row(self, split):
        ids = pipeline.order(split, 0, 0, repeats=3)
        assert len(ids) == len(split)
        assert (ids[0::3] == ids[1::3]).all()
        assert len(set(ids.tolist())) == len(split) // 3

    def test_shards_are_read_in_windows(self, records, monkeypatch):
        monkeypatch.setattr(pipeline, "WINDOW_SHARDS", 2)
        shard = records.file_index[pipeline.order(records, 0, 0)]
        half = np.isin(records.file_index, shard[:1]).sum()  # no window is smaller than a shard
        windows = [set(shard[: 2 * half - 4].tolist()), set(shard[-2 * half + 4 :].tolist())]
        assert [len(window) for window in windows] == [2, 2]
        assert not windows[0] & windows[1]
        assert (np.diff(shard[: 2 * half - 4]) != 0).mean() > 0.2  # mixed within


class TestExactness:
    @pytest.mark.parametrize("recipe", [PLAIN, EVERYTHING], ids=["plain", "everything"])
    def test_an_epoch_goes_on_where_it_stopped_and_is_shared_exactly(self, split, recipe):
        whole = batches(split, recipe)
        assert len(whole) == feed.steps_per_epoch(split, recipe) == 5
        assert same(whole[3:], batches(split, recipe, first_step=3))
        assert not same(whole, batches(split, recipe, epoch=2))
        assert not same(whole, batches(split, recipe, seed=4))
        thirds = [batches(split, recipe, first_step=3, shard=(i, 4)) for i in range(4)]
        assert thirds[0][0][0].shape == (4, 32, 32, 3)
        joined = [[np.concatenate(parts) for parts in zip(*step, strict=True)] for step in zip(*thirds, strict=True)]
        assert same(whole[3:], joined)

    def test_the_number_of_threads_does_not_matter(self, split, monkeypatch):
        several = batches(split, EVERYTHING)
        monkeypatch.setattr(os, "cpu_count", lambda: 1)
        monkeypatch.setattr(tf.data, "AUTOTUNE", 1)
        assert same(several, batches(split, EVERYTHING))

    def test_another_backend_makes_the_same_batches(self, folder, split):
        code = (
            "import sys; sys.path.insert(0, 'tests')\n"
            "import test_pipeline as t, hashlib\n"
            f"made = t.batches(t.data.load({str(folder)!r}, ()).train, t.EVERYTHING, first_step=4)\n"
            "print(t.keras.backend.backend(), hashlib.sha256(made[0][0].tobytes()).hexdigest())"
        )
        backend = "jax" if keras.backend.backend() == "tensorflow" else "tensorflow"
        environment = {**os.environ, "KERAS_BACKEND": backend}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        if "No module named 'jax'" in done.stderr:
            pytest.skip("jax is not installed")
        import hashlib

        mine = batches(split, EVERYTHING, first_step=4)[0][0]
        assert done.stdout.split() == [backend, hashlib.sha256(mine.tobytes()).hexdigest()], done.stderr

    def test_records_give_the_pixels_of_their_files(self, folder, split, records):
        whole = Recipe(batch_size=1, size=32, crop_scale_min=1.0, flip=False)
        found = {}
        for part in (split, records):
            one = [images.tobytes() for images, _ in batches(part, whole)]
            found[part is split] = dict(zip(pipeline.order(part, 3, 1).tolist(), one, strict=True))
        by_content = {records.encoded(i): i for i in range(len(records))}
        matched = 0
        for i in range(len(split)):
            j = by_content.get(split.encoded(i))
            if j is not None:
                matched += 1
                assert records.labels[j] == split.labels[i]
        assert matched > 60  # both hold out other images for validation
        image = tf.constant(split.encoded(0))
        cropper = cropping.Cropper(whole, range(cropping.KEYS))
        assert cropper(image, 7).shape == (32, 32, 3)
        sample = records.take([by_content[split.encoded(5)]]), split.take([5])
        assert same(*(batches(part, whole) for part in sample))

    def test_the_shapes_are_known_before_the_first_batch(self, split):
        dataset = pipeline.training_batches(split, EVERYTHING, CLASSES, 0, 0, first_step=2)
        images, labels = dataset.element_spec
        assert (images.shape, images.dtype, labels.shape) == ((16, 32, 32, 3), tf.float32, (16, CLASSES))
        assert dataset.cardinality() == 3
        assert pipeline.training_batches(split, PLAIN, CLASSES, 0, 0).element_spec[0].dtype == tf.uint8

    @pytest.mark.parametrize(
        ("changes", "shard", "message"),
        [
            ({"batch_size": 500}, (0, 1), "do not fill one batch of 500"),
            ({}, (0, 3), "cannot be divided among 3"),
            ({"size": 0}, (0, 1), "size=0"),
        ],
    )
    def test_what_cannot_be_done_is_refused(self, split, changes, shard, message):
        with pytest.raises(ValueError, match=message):
            pipeline.training_batches(split, PLAIN.with_changes(**changes), CLASSES, 0, 0, shard=shard)


class TestCrops:
    def cropper(self, **changes):
        return cropping.Cropper(Recipe(**{"size": 32, "flip": False, **changes}), range(cropping.KEYS))

    def test_boxes_keep_to_area_and_ratio(self):
        cropper = self.cropper()
        boxes = np.array([cropper.box(tf.constant([375, 500, 3]), i) for i in range(400)])
        top, left, height, width = boxes.T
        assert (top >= 0).all()
        assert (left >= 0).all()
        assert (top + height <= 375).all()
        assert (left + width <= 500).all()
        # Sides are whole pixels: of the smallest crop, 106 x 142, a side may be 1 in 106 off.
        assert (height * width / (375 * 500) > 0.08 * (1 - 2 / 106)).all()
        assert (width / height > 3 / 4 * (1 - 2 / 106)).all()
        assert (width / height < 4 / 3 * (1 + 2 / 106)).all()
        assert (height * width).min() < 0.12 * 375 * 500
        assert (height * width).max() > 0.75 * 375 * 500

    @pytest.mark.parametrize("size", [(90, 70), (375, 500)])
    def test_the_decoded_crop_is_the_crop_of_the_decoded_image(self, size):
        content = encoded_bytes(photo(*size), quality=90)
        cropper = self.cropper(size=64 if size == (90, 70) else 224)
        whole = folders.read_image(io.BytesIO(content))
        for position in range(5):
            top, left, height, width = cropper.box(tf.constant([*size, 3]), position).numpy()
            crop = whole[top : top + height, left : left + width].astype(np.float32)
            expected = tf.image.resize(crop, (cropper.size, cropper.size)).numpy()
            difference = abs(cropper(tf.constant(content), position).numpy() - expected)
            # The same pixels: the resized ones differ by their rounding to integers alone.
            edge = -int(np.ceil(1.5 * cropper.size / min(height, width)))
            assert difference[:edge, :edge].max() <= 0.501
            # But the last row and column of the crop lack the neighbour of which their colour takes a quarter.
            assert difference.max() <= 255 / 4

    def test_a_large_crop_is_shrunk_without_aliasing(self):
        stripes = np.zeros((512, 512, 3), np.uint8)
        stripes[:, ::2] = 255
        for kind in ("JPEG", "PNG"):
            content = tf.constant(encoded_bytes(stripes, kind))
            image = self.cropper(size=64, crop_scale_min=0.9)(content, 0).numpy()
            assert abs(image.astype(int) - 127).max() < 16, kind  # bilinear alone gives black or white

    def test_shrinking_keeps_the_place(self):
        ramp = np.repeat(np.linspace(0, 255, 1000)[None, :, None], 800, 0).repeat(3, 2).astype(np.uint8)
        cropper = self.cropper(size=50)
        for position in range(5):
            _, left, _, width = cropper.box(tf.constant([800, 1000, 3]), position).numpy()
            image = cropper(tf.constant(encoded_bytes(ramp, quality=95)), position).numpy()
            expected = (left + (np.arange(50) + 0.5) * width / 50) * 255 / 1000
            # The box may begin up to 8 pixels beside, and so do its ends: 4 grey values, and 2 for the encoding.
            assert abs(image[25, :, 1] - expected).max() < 6

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_turned_photographs_are_upright(self, orientation):
        tag = Image.Exif()
        tag[0x0112] = orientation
        content = encoded_bytes(photo(64, 64, seed=4), quality=95, exif=tag)
        image = self.cropper(size=64, crop_scale_min=1.0)(tf.constant(content), 0).numpy()
        assert (image == folders.read_image(io.BytesIO(content))).all()

    def test_other_formats_and_colours(self):
        colours = photo(64, 64)
        cropper = self.cropper(size=64, crop_scale_min=1.0)
        for kind in ("PNG", "WEBP", "BMP", "TIFF", "GIF"):
            content = encoded_bytes(colours, kind)
            assert (cropper(tf.constant(content), 0).numpy() == folders.read_image(io.BytesIO(content))).all(), kind
        for mode, tolerance in (("L", 0), ("CMYK", 2)):
            buffer = io.BytesIO()
            Image.fromarray(colours).convert(mode).save(buffer, "JPEG")
            image = cropper(tf.constant(buffer.getvalue()), 0).numpy().astype(int)
            assert abs(image - folders.read_image(buffer)).max() <= tolerance, mode

    def test_mirror_and_erasing_happen_at_their_rates(self):
        ramp = np.repeat(np.linspace(60, 250, 32)[None, :, None], 32, 0).repeat(3, 2).astype(np.uint8)
        ramp[ramp == augment.MID_GREY] += 1
        content = tf.constant(encoded_bytes(ramp, "PNG"))
        cropper = self.cropper(crop_scale_min=1.0, flip=True, erase_pixels=6, erase_probability=0.25)
        made = tf.function(lambda position: cropper(content, position))
        images = np.array([made(tf.constant(i)) for i in range(800)])
        erased = (images == augment.MID_GREY).all(-1)
        assert erased.sum((1, 2)).max() == 36
        # Three standard deviations of 800 throws: 0.046 for a quarter, 0.053 for a half.
        assert abs(erased.any((1, 2)).mean() - 0.25) < 0.046
        mirrored = np.median(images[:, :, :8], axis=(1, 2, 3)) > np.median(images[:, :, -8:], axis=(1, 2, 3))
        assert abs(mirrored.mean() - 0.5) < 0.053


class TestEvaluation:
    @pytest.mark.parametrize("processes", [1, 2])
    def test_every_image_once_with_the_pixels_of_preprocess(self, split, processes):
        preprocess = Preprocess(24, 20, crop_fraction=0.9)
        parts = [
            list(pipeline.evaluation_batches(split, preprocess, 16, (i, processes)).as_numpy_iterator())
            for i in range(processes)
        ]
        assert {len(part) for part in parts} == {-(-len(split) // 16)}
        in_order = itertools.chain.from_iterable(zip(*parts, strict=True))
        images, labels, weights = (np.concatenate(a) for a in zip(*in_order, strict=True))
        assert images.shape[1:] == (24, 20, 3)
        assert (labels.dtype, weights.dtype) == (np.int64, np.float32)
        assert weights.sum() == len(split)
        expected = [preprocess.pixels(folders.read_image(split.path(i))) for i in range(len(split))]
        assert (images[weights == 1] == expected).all()
        assert (labels[weights == 1] == split.labels).all()

    def test_a_file_that_broke_since_is_named(self, tmp_path, split):
        path = tmp_path / "gone.jpg"
        path.write_bytes(b"no image")
        broken = type(split)(tmp_path, np.array([b"gone.jpg"]), np.zeros(1, int), np.zeros(1, int))
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"gone\.jpg .*cannot be decoded"):
            list(pipeline.evaluation_batches(broken, Preprocess(8, 8), 1))


class TestMixing:
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    labels = np.eye(16, dtype="float32")

    def graph(self, recipe, seed=1):
        mix = tf.function(mixing.Mixer(recipe), autograph=False)
        parts = mix(tf.constant(self.images), tf.constant(self.labels), choice=(seed, 5), seed=(seed, 9))
        return [part.numpy() for part in parts]

    def arrays(self, recipe, seed=1):
        return mixing.mixed(self.images, self.labels, recipe, np.random.default_rng(seed))

    @pytest.mark.parametrize("made_by", ["graph", "arrays"])
    def test_labels_are_mixed_as_the_pixels(self, made_by):
        images, labels = getattr(self, made_by)(Recipe(mixup_alpha=0.4))
        np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
        assert 1.2 < (labels > 0).sum(1).mean() <= 2
        # The label's weights are those of the images: a sum of two products in float32 of numbers up to 255.
        np.testing.assert_allclose(images, np.tensordot(labels, self.images.astype("f4"), 1), atol=255 * 4 * 2**-24)
        images, labels = getattr(self, made_by)(Recipe(cutmix_alpha=1.0))
        np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
        same_pixel = (images[:, None] == self.images[None]).all(-1).mean((2, 3))
        # A box of real sides covers whole pixels: its area is off by less than a row and a column of 8.
        assert abs(same_pixel - labels).max() < 2 / 8

    def test_one_of_the_two_is_drawn_for_a_batch(self):
        both = Recipe(mixup_alpha=0.4, cutmix_alpha=1.0)
        cut = [np.isin(self.graph(both, seed)[0], self.images).all() for seed in range(24)]
        assert 4 <= sum(cut) <= 20  # a fair coin does so but for one run in 2,000

    @pytest.mark.parametrize("index", range(len(mixing.RandAugment._AUGMENT_LAYERS)))
    def test_each_operation_changes_pixels_within_their_range(self, index):
        layer = mixing.RandAugment(1, 0.9)
        made = keras.ops.convert_to_numpy(
            layer.operation(index, keras.ops.cast(self.images, "float32"), mixing.array_seeds(np.random.default_rng(3)))
        )
        assert made.shape == self.images.shape
        assert (made != self.images).any()
        assert made.min() > -0.01
        assert made.max() < 255.01

    def test_a_graph_runs_the_drawn_operation(self):
        layer = mixing.RandAugment(1, 0.9)
        run = tf.function(layer.in_graph, autograph=False)
        image = tf.constant(self.images[:1])
        drawn = set()
        for position in range(40):
            pair = tf.constant(7), tf.constant(position)
            index = int(tf.random.stateless_uniform((), tf.stack(pair), 0, len(layer._AUGMENT_LAYERS), tf.int32))
            alone = tf.function(
                lambda x, index=index, pair=pair: layer.operation(index, x, mixing.graph_seeds(pair)), autograph=False
            )
            np.testing.assert_allclose(run(image, pair), alone(tf.cast(image, tf.float32)), atol=1e-3)
            drawn.add(index)
        assert len(drawn) >= 9

    def test_arrays_depend_on_the_generator_alone(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            recipe = Recipe(rand_augment_ops=2, mixup_alpha=0.4, cutmix_alpha=1.0)
            one, other, third = (self.arrays(recipe, seed) for seed in (4, 4, 5))
        assert same([one], [other])
        assert not same([one], [third])
        assert (one[0].dtype, one[1].dtype) == (np.float32, np.float32)
        augmented, labels = self.arrays(Recipe(rand_augment_ops=2), 4)
        assert augmented.dtype == np.uint8
        assert labels is self.labels

    def test_equalising_is_done_image_by_image(self):
        layer = mixing.Equalization(dtype="float32")
        together = keras.ops.convert_to_numpy(layer.transform_images(keras.ops.cast(self.images, "float32"), None))
        alone = [layer.transform_images(keras.ops.cast(self.images[i : i + 1], "float32"), None) for i in range(16)]
        assert (together == np.concatenate([keras.ops.convert_to_numpy(image) for image in alone])).all()
        flat = keras.ops.full((1, 4, 4, 3), 77.0)
        assert (keras.ops.convert_to_numpy(layer.transform_images(flat, None)) == 77).all()
