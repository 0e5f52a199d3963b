"""Data sets, folders, preprocessing and augmentation: what goes in is what the contract says, and nothing leaks."""

import numpy as np
import pytest
from PIL import Image

from resnet_keras import data, folders, recipes
from resnet_keras.augment import MID_GREY, augmented
from resnet_keras.feed import Batches
from resnet_keras.pixels import PixelNormalization
from resnet_keras.preprocessing import Preprocess


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def fingerprints(images):
    return {image.tobytes() for image in images}


class TestDatasets:
    def test_the_sample_is_real_balanced_and_apart(self):
        sample = data.load("fashion_mnist_sample")
        assert len(sample.train) + len(sample.validation) == 3000
        assert np.bincount(sample.test.labels).tolist() == [280] * 10
        assert not fingerprints(sample.train.images) & fingerprints(sample.test.images)
        assert not fingerprints(sample.train.images) & fingerprints(sample.validation.images)

    def test_images_are_32_pixel_rgb_with_a_black_border(self):
        images = data.load("fashion_mnist_sample").train.images
        assert images.shape[1:] == (32, 32, 3)
        assert images.dtype == np.uint8
        assert (images[:, :2] == 0).all()
        assert (images[:, :, -2:] == 0).all()
        assert (images[..., :1] == images).all()
        assert images[:, 2:-2, 2:-2].max() == 255

    def test_the_sample_is_part_of_the_full_data_set(self):
        try:
            full = data.load("fashion_mnist")
        except ConnectionError as error:
            pytest.skip(str(error))
        assert (len(full.train), len(full.validation), len(full.test)) == (58_000, 2_000, 10_000)
        sample = data.load("fashion_mnist_sample")
        assert fingerprints(sample.test.images) <= fingerprints(full.test.images)
        assert fingerprints(sample.train.images) <= fingerprints(full.train.images)
        assert np.bincount(full.validation.labels).tolist() == [200] * 10

    def test_balanced_deals_each_class_in_turn(self):
        labels = np.array([0] * 50 + [1] * 5 + [2] * 5)
        chosen = data.balanced(labels, 15, seed=3)
        assert len(set(chosen.tolist())) == 15
        assert np.bincount(labels[chosen]).tolist() == [5, 5, 5]
        assert sorted(labels[chosen[:3]].tolist()) == [0, 1, 2]
        assert (chosen == data.balanced(labels, 15, seed=3)).all()
        assert (chosen != data.balanced(labels, 15, seed=4)).any()

    def test_arrays_from_a_file(self, tmp_path):
        path = tmp_path / "mine.npz"
        labels = np.arange(60) % 3
        np.savez(path, train_images=noise(60, 16, 16, 3), train_labels=labels, class_names=["a", "b", "c"])
        mine = data.load(path)
        assert mine.class_names == ("a", "b", "c")
        assert (len(mine.train), len(mine.validation), mine.test) == (58, 2, None)

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"images": noise(4, 8, 8, 3)}, "lacks"),
            ({"train_images": noise(4, 8, 8, 3) / 255.0, "train_labels": np.zeros(4)}, "raw pixels"),
            ({"train_images": noise(4, 8, 8), "train_labels": np.zeros(4)}, "raw pixels"),
            ({"train_images": noise(4, 8, 8, 3), "train_labels": np.zeros(5)}, "train_labels"),
            ({"train_images": noise(4, 8, 8, 3), "train_labels": np.full(4, -1)}, "train_labels"),
        ],
    )
    def test_arrays_that_are_no_images_are_refused(self, tmp_path, arrays, message):
        np.savez(tmp_path / "bad.npz", **arrays)
        with pytest.raises(ValueError, match=message):
            data.load(tmp_path / "bad.npz")

    def test_a_file_that_is_no_archive_is_refused(self, tmp_path):
        (tmp_path / "bad.npz").write_bytes(b"not an archive")
        with pytest.raises(ValueError, match=r"not an \.npz file"):
            data.load(tmp_path / "bad.npz")
        with pytest.raises(FileNotFoundError):
            data.load(tmp_path / "none.npz")
        with pytest.raises(ValueError, match="Unknown data set"):
            data.load("fashion")


class TestPreprocess:
    def test_the_centre_is_cut_out(self):
        wide = np.zeros((64, 128, 3), np.uint8)
        wide[:, 32:96] = 200  # the centre square
        pixels = Preprocess(64, 64, crop_fraction=1.0).pixels(wide)
        assert (pixels == 200).all()

    def test_crop_fraction_drops_the_border(self):
        framed = np.zeros((100, 100, 3), np.uint8)
        framed[10:90, 10:90] = 200
        assert Preprocess(80, 80, crop_fraction=0.8, interpolation="nearest").pixels(framed).min() == 200
        assert Preprocess(80, 80, crop_fraction=1.0, interpolation="nearest").pixels(framed).min() == 0

    @pytest.mark.parametrize("shape", [(31, 77, 3), (77, 31, 3), (300, 301, 3), (5, 5, 1)])
    @pytest.mark.parametrize("size", [(32, 32), (24, 40)])
    def test_every_shape_becomes_the_size(self, shape, size):
        assert Preprocess(*size).pixels(noise(*shape)).shape == (*size, shape[-1])

    def test_an_image_of_the_right_size_is_untouched(self):
        image = noise(32, 32, 3)
        assert (Preprocess(32, 32, crop_fraction=1.0).pixels(image) == image).all()

    def test_it_survives_json(self):
        value = Preprocess(10, 20, mean=(1.0, 2.0, 3.0), std=[4, 5, 6])
        assert Preprocess(**value.to_dict()) == value
        assert hash(value)

    @pytest.mark.parametrize("wrong", [{"interpolation": "lanczos"}, {"crop_fraction": 0}, {"crop_fraction": 1.5}])
    def test_nonsense_is_refused(self, wrong):
        with pytest.raises(ValueError, match=str(next(iter(wrong)))):
            Preprocess(**wrong)

    @pytest.mark.parametrize(
        ("mean", "std"), [(128.0, 128.0), ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4)), (127.5, (60.0, 50.0, 40.0))]
    )
    def test_the_layer_normalises_as_numpy_does(self, mean, std):
        pixels = noise(2, 4, 4, 3)
        expected = (pixels - np.asarray(mean)) / np.asarray(std)
        layer = PixelNormalization(Preprocess(mean=mean, std=std))
        # One multiplication and one addition in float32: two roundings of numbers below 8.
        np.testing.assert_allclose(layer(pixels), expected, atol=2 * 8 * 2**-24)

    def test_the_default_is_exact(self):
        pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
        assert (np.asarray(PixelNormalization(Preprocess())(pixels)) * 128 == pixels.astype(int) - 128).all()


class TestFolders:
    def test_reads_what_is_an_image_and_reports_what_is_not(self, tmp_path):
        Image.fromarray(noise(8, 9, 3)).save(tmp_path / "good.png")
        (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a jpeg")
        (tmp_path / "notes.txt").write_text("no image")
        paths = folders.list_images(tmp_path)
        assert [path.name for path in paths] == ["broken.jpg", "good.png"]
        assert folders.read_image(paths[0]) is None
        assert folders.read_image(paths[1]).shape == (8, 9, 3)
        assert folders.read_image(paths[1], channels=1).shape == (8, 9, 1)

    def test_folder_names_give_labels(self, tmp_path):
        paths = [tmp_path / "dog" / "1.png", tmp_path / "a-b" / "2.png"]
        assert folders.class_indices(paths, tmp_path, ("cat", "a/b", "dog")).tolist() == [2, 1]
        assert folders.class_indices([tmp_path / "1.png"], tmp_path, ("cat",)) is None
        with pytest.raises(ValueError, match="dog"):
            folders.class_indices(paths, tmp_path, ("cat", "a/b"))


class TestBatches:
    recipe = recipes.Recipe(batch_size=8, crop_padding=2, erase_pixels=6, erase_probability=0.5)
    split = data.Split(noise(30, 16, 16, 3), np.arange(30) % 3)

    def test_each_image_comes_once_an_epoch_and_in_another_order_the_next(self):
        plain = recipes.Recipe(batch_size=8, flip=False)
        batches = Batches(self.split, plain, classes=3, seed=0)
        first = [batches[i][0] for i in range(len(batches))]
        assert len(batches) == 3
        assert len(fingerprints(np.concatenate(first))) == 24
        assert (Batches(self.split, plain, classes=3, seed=0, epoch=1)[0][0] != first[0]).any()

    def test_labels_follow_their_images(self):
        plain = recipes.Recipe(batch_size=8, flip=False)
        images, one_hot = Batches(self.split, plain, classes=3, seed=5)[1]
        label_of = {image.tobytes(): label for image, label in zip(self.split.images, self.split.labels, strict=True)}
        assert one_hot.argmax(axis=1).tolist() == [label_of[image.tobytes()] for image in images]

    def test_any_batch_can_be_made_again(self):
        one, other = (Batches(self.split, self.recipe, classes=3, seed=7) for _ in range(2))
        one[0]
        assert (one[2][0] == other[2][0]).all()
        assert (one[2][0] != Batches(self.split, self.recipe, classes=3, seed=8)[2][0]).any()

    def test_shift_moves_at_most_the_padding_and_repeats_the_border(self):
        image = np.zeros((1, 9, 9, 1), np.uint8)
        image[0, 4, 4] = 255
        shifting = recipes.Recipe(crop_padding=2, flip=False)
        rng = np.random.default_rng(0)
        shifted = [augmented(image, None, shifting, rng)[0] for _ in range(300)]
        places = {tuple(np.argwhere(image[0, :, :, 0])[0] - 4) for image in shifted}
        assert places == {(row, column) for row in range(-2, 3) for column in range(-2, 3)}
        assert (augmented(np.full_like(image, 7), None, shifting, rng)[0] == 7).all()

    def test_mirror_and_erasing_happen_at_their_rates(self):
        gradient = np.tile(np.arange(16, dtype=np.uint8)[None, None, :, None], (2000, 16, 1, 3))
        images, _ = augmented(gradient, None, self.recipe.with_changes(crop_padding=0), np.random.default_rng(1))
        erased = (images == MID_GREY).any(axis=(1, 2, 3))
        mirrored = images[:, 0, 0, 0] > images[:, 0, -1, 0]
        # Three standard deviations of a fair coin thrown 2,000 times are 0.034.
        assert abs(erased.mean() - 0.5) < 0.034
        assert abs(mirrored[~erased].mean() - 0.5) < 0.05
        assert (images == MID_GREY).all(axis=-1).sum(axis=(1, 2)).max() == 36

    def test_the_input_is_left_alone(self):
        before = self.split.images.copy()
        augmented(self.split.images, None, self.recipe, np.random.default_rng(0))
        assert (self.split.images == before).all()

    def test_too_few_images_are_refused(self):
        with pytest.raises(ValueError, match="do not fill one batch"):
            Batches(self.split, recipes.Recipe(batch_size=31), classes=3, seed=0)
