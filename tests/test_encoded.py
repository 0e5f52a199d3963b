"""Data sets on disk: layouts, refusals, and what the scan finds."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from resnet_keras import data, encoded, folders, scan, tfrecord


def pixels(height=24, width=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def jpeg(seed=0, height=24, width=32):
    buffer = io.BytesIO()
    Image.fromarray(pixels(height, width, seed)).save(buffer, "JPEG")
    return buffer.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_classes(folder, classes=("ape", "bee"), count=4, start=0):
    for index, name in enumerate(classes):
        for i in range(count):
            write(folder / name / f"{i}.jpg", jpeg(start + 100 * index + i))


def names(split):
    return [split.name(i) for i in range(len(split))]


class TestLayouts:
    def test_three_parts(self, tmp_path):
        write_classes(tmp_path / "train")
        write_classes(tmp_path / "val", count=2)
        write_classes(tmp_path / "test", ("bee",), count=1)
        found = data.load(tmp_path)
        assert found.class_names == ("ape", "bee")
        assert [len(part) for part in (found.train, found.validation, found.test)] == [8, 4, 1]
        assert found.test.labels.tolist() == [1]
        assert names(found.train)[:2] == ["train/ape/0.jpg", "train/ape/1.jpg"]
        assert found.train.labels.dtype == np.int64
        assert found.train.labels.tolist() == [0] * 4 + [1] * 4
        assert found.train.encoded(5) == jpeg(101)

    def test_class_folders_alone_are_training_images_and_some_are_held_out(self, tmp_path):
        write_classes(tmp_path, count=40)
        write(tmp_path / "cat" / "deeper" / "1.JPEG", jpeg(7))
        write(tmp_path / "cat" / "0.png", jpeg(8))
        write(tmp_path / "one" / "only.jpg", jpeg(9))
        write(tmp_path / ".cache" / "x.jpg", b"hidden")
        write(tmp_path / "ape" / "._0.jpg", b"hidden")
        write(tmp_path / "ape" / "notes.txt", b"no image")
        found = data.load(tmp_path)
        assert found.class_names == ("ape", "bee", "cat", "one")
        assert np.bincount(found.validation.labels, minlength=4).tolist() == [3, 4, 1, 0]
        assert np.bincount(found.train.labels).tolist() == [37, 36, 1, 1]
        assert not set(names(found.train)) & set(names(found.validation))
        assert names(data.load(tmp_path).validation) == names(found.validation)
        assert found.test is None

    def test_a_class_may_be_called_train(self, tmp_path):
        write_classes(tmp_path, ("car", "train"))
        assert data.load(tmp_path).class_names == ("car", "train")

    def test_linked_class_folders_are_followed_once(self, tmp_path):
        write_classes(tmp_path / "elsewhere")
        (tmp_path / "set").mkdir()
        for name in ("ape", "bee"):
            (tmp_path / "set" / name).symlink_to(tmp_path / "elsewhere" / name)
        (tmp_path / "elsewhere" / "ape" / "loop").symlink_to(tmp_path / "elsewhere" / "ape")
        found = data.load(tmp_path / "set")
        assert len(found.train) + len(found.validation) == 8

    def test_names_that_are_not_utf_8(self, tmp_path):
        write_classes(tmp_path)
        name = os.fsdecode(b"caf\xe9.jpg")
        try:
            write(tmp_path / "ape" / name, jpeg(5))
        except OSError:
            pytest.skip("this file system has UTF-8 names only")
        found = data.load(tmp_path)
        assert len(found.train) + len(found.validation) == 9
        assert "ape/caf\ufffd.jpg" in names(found.train) + names(found.validation)


class TestRefusals:
    @pytest.mark.parametrize(
        ("files", "message"),
        [
            (["1.jpg", "2.jpg"], "0 class folders and 2 loose images"),
            (["a/1.jpg"], "1 class folders"),
            (["a/1.jpg", "b/notes.txt"], "class folder .*b holds no images"),
            (["a/1.jpg", "b/1.jpg", "3.jpg"], "outside of the class folders: 3.jpg"),
            (["a/1.jpg", "b/1.jpg"], "one training image a class"),
            (["train/1.jpg", "test/1.jpg"], "no train/CLASS folders"),
            (["val/a/1.jpg", "val/b/1.jpg"], "no train/CLASS folders"),
            (["train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "validation/a/1.jpg"], "both 'validation' and 'val'"),
            (["train/a/1.jpg", "train/b/1.jpg", "test/c/1.jpg"], "no classes of the training images: c"),
            ([], "0 class folders"),
        ],
    )
    def test_layouts_that_say_no_labels(self, tmp_path, files, message):
        for name in files:
            write(tmp_path / name, jpeg())
        with pytest.raises(ValueError, match=message):
            data.load(tmp_path)

    def test_too_much_is_unreadable(self, tmp_path):
        write_classes(tmp_path, count=30)
        for i in range(4):
            write(tmp_path / "ape" / f"bad{i}.jpg", b"no image")
        with pytest.raises(ValueError, match=r"4 of 64 train images .* ape/bad0.jpg \(not an image\).*5%"):
            data.load(tmp_path)
        (tmp_path / "ape" / "bad0.jpg").unlink()
        assert len(data.load(tmp_path).train.unreadable) == 3

    def test_a_class_whose_images_are_all_unreadable(self, tmp_path):
        write_classes(tmp_path, count=30)
        write(tmp_path / "cat" / "0.jpg", b"")
        with pytest.raises(ValueError, match="have no training image that can be read: cat"):
            data.load(tmp_path)


class TestScan:
    def write_damaged(self, folder, count, truncated, no_images):
        write_classes(folder, ("ape", "bee"), (count - truncated - no_images - 1) // 2)
        for i in range(truncated):
            content = jpeg(i)
            # One byte, or up to a third of the file.
            write(folder / "ape" / f"cut{i}.jpg", content[: -1 - i * len(content) // 3 // truncated])
        for i in range(no_images):
            write(folder / "bee" / f"text{i}.jpg", b"" if i == 0 else b"<html>not found</html>")
        wide = io.BytesIO()
        Image.new("L", (20_000, 2)).save(wide, "JPEG")
        write(folder / "bee" / "wide.jpg", wide.getvalue())

    def check(self, folder, count, truncated, no_images):
        found = data.load(folder)
        reasons = dict(found.train.unreadable)
        assert len(found.train) + len(found.validation) == count - truncated - no_images - 1
        assert len(reasons) == truncated + no_images + 1
        assert {reasons[f"ape/cut{i}.jpg"] for i in range(truncated)} == {"truncated or damaged"}
        assert reasons["bee/text0.jpg"] == "an empty file"
        assert reasons["bee/text1.jpg"] == "not an image"
        assert reasons["bee/wide.jpg"] == "20,000 x 2 pixels, above 16,384"
        for i in range(0, len(found.train), 97):
            assert found.train.image(i).shape == (24, 32, 3)

    def test_two_thousand_files_of_which_26_are_bad(self, tmp_path):
        self.write_damaged(tmp_path, 2000, truncated=20, no_images=5)
        self.check(tmp_path, 2000, 20, 5)

    def test_content_counts_and_no_suffix(self, tmp_path):
        write_classes(tmp_path, count=3)
        for suffix, kind in (("jpg", "PNG"), ("png", "WEBP"), ("gif", "BMP"), ("webp", "GIF"), ("bmp", "TIFF")):
            Image.fromarray(pixels()).save(tmp_path / "ape" / f"x.{suffix}", kind)
        found = data.load(tmp_path)
        assert found.train.unreadable == ()
        assert len(found.train) + len(found.validation) == 11

    def test_what_is_no_file(self, tmp_path):
        write_classes(tmp_path, count=40)
        (tmp_path / "ape" / "folder.jpg").mkdir()
        (tmp_path / "bee" / "link.jpg").symlink_to(tmp_path / "gone.jpg")
        expected = (("ape/folder.jpg", "a folder, not a file"), ("bee/link.jpg", "a dangling link"))
        assert data.load(tmp_path).train.unreadable == expected

    def test_no_permission(self, tmp_path, monkeypatch):
        write_classes(tmp_path)
        split = data.load(tmp_path).train

        def refused(self, index):
            raise PermissionError

        monkeypatch.setattr(encoded.EncodedSplit, "encoded", refused)
        assert scan.reason_against(split, 0, None) == "no permission to read it"

    def test_nothing_huge_is_decoded(self, tmp_path, monkeypatch):
        write_classes(tmp_path)
        bomb = io.BytesIO()
        Image.new("1", (16_000, 12_000)).save(bomb, "PNG")  # 192 million pixels in a few kilobytes
        write(tmp_path / "ape" / "0.jpg", bomb.getvalue())
        write(tmp_path / "ape" / "1.jpg", jpeg().replace(b"\x00\x18\x00\x20", b"\x40\x01\x00\x20"))  # a header's lie
        split = data.load(tmp_path, known_unreadable=()).train
        split = split.take(np.argsort(names(split)))
        monkeypatch.setattr(folders, "read_image", lambda *_: pytest.fail("decoded"))
        assert "more than" in scan.reason_against(split, names(split).index("ape/0.jpg"), pytest.fail)
        assert "above 16,384" in scan.reason_against(split, names(split).index("ape/1.jpg"), pytest.fail)

    def test_an_earlier_scan_is_not_repeated(self, tmp_path, monkeypatch):
        write_classes(tmp_path, count=20)
        write(tmp_path / "bee" / "bad.jpg", b"no image")
        first = data.load(tmp_path)
        monkeypatch.setattr(scan, "decode_all", lambda _: pytest.fail("decoded again"))
        again = data.load(tmp_path, first.train.unreadable)
        assert again.train.unreadable == first.train.unreadable == (("bee/bad.jpg", "not an image"),)
        assert names(again.train) == names(first.train)
        assert names(data.load(tmp_path, ["bee/bad.jpg"]).validation) == names(first.validation)


class TestTFRecord:
    def write(self, folder, name, labels, image="image/encoded", label="image/class/label"):
        import tensorflow as tf

        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            for i, value in enumerate(labels):
                features = tf.train.Features(
                    feature={
                        "image/format": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"JPEG"])),
                        "box": tf.train.Feature(float_list=tf.train.FloatList(value=[0.5, 1.0])),
                        image: tf.train.Feature(bytes_list=tf.train.BytesList(value=[jpeg(i)])),
                        label: tf.train.Feature(int64_list=tf.train.Int64List(value=[value])),
                    }
                )
                writer.write(tf.train.Example(features=features).SerializeToString())

    def test_slim_labels_count_from_one(self, tmp_path):
        self.write(tmp_path, "train-00000-of-00002", [1, 2, 3, 200])
        self.write(tmp_path, "train-00001-of-00002", [3, 2, 1, 1])
        self.write(tmp_path, "validation-00000-of-00001", [2, 3])
        # A label of 200 says that there are 200 classes, of which most have no image.
        with pytest.raises(ValueError, match="196 of the classes"):
            data.load(tmp_path)
        self.write(tmp_path, "train-00000-of-00002", [1, 2, 3])
        found = data.load(tmp_path)
        assert found.class_names == ("class 0", "class 1", "class 2")
        assert found.train.labels.tolist() == [0, 1, 2, 2, 1, 0, 0]
        assert found.validation.labels.tolist() == [1, 2]
        assert found.train.encoded(4) == jpeg(1)
        assert found.train.name(4) == "train-00001-of-00002#1"

    def test_tfds_names_and_a_file_of_labels(self, tmp_path):
        self.write(tmp_path, "pets-train.tfrecord-00000-of-00001", [1, 2] * 3, "image", "label")
        self.write(tmp_path, "pets-test.tfrecord-00000-of-00001", [2], "image", "label")
        (tmp_path / "labels.txt").write_text("0:zero\n1:one\n2:two\n")
        with pytest.raises(ValueError, match="have no training image that can be read: zero"):
            data.load(tmp_path)
        self.write(tmp_path, "pets-train.tfrecord-00000-of-00001", [0, 1, 2] * 3, "image", "label")
        found = data.load(tmp_path)
        assert found.class_names == ("zero", "one", "two")
        assert found.test.labels.tolist() == [2]

    def test_records_that_cannot_be_used(self, tmp_path):
        self.write(tmp_path, "train.tfrecord", [0, 1], "picture")
        with pytest.raises(ValueError, match="lacks an image or a label"):
            data.load(tmp_path)
        self.write(tmp_path, "train.tfrecord", [-1, 1])
        with pytest.raises(ValueError, match=r"expected labels from 0 to 1\. Received: from -1 to 1"):
            data.load(tmp_path)
        (tmp_path / "train.tfrecord").write_bytes((tmp_path / "train.tfrecord").read_bytes()[:-10])
        with pytest.raises(ValueError, match="is damaged at byte"):
            data.load(tmp_path)
        (tmp_path / "train.tfrecord").rename(tmp_path / "test.tfrecord")
        with pytest.raises(ValueError, match="none for training"):
            data.load(tmp_path)

    def test_the_converter_keeps_bytes_and_tells_what_it_left_out(self, tmp_path):
        import tensorflow as tf

        write_classes(tmp_path / "set" / "train", count=20)
        write_classes(tmp_path / "set" / "test", count=3)
        write(tmp_path / "set" / "train" / "bee" / "bad.jpg", b"no image")
        command = [sys.executable, "-m", "resnet_keras.tfrecord", "set", "out", "--shards", "3"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "train/bee/bad.jpg  not an image" in done.stdout
        assert sorted(os.listdir(tmp_path)) == ["out", "set"]
        records = {}
        for path in (tmp_path / "out").glob("train-*"):
            for record in tf.data.TFRecordDataset(str(path)):
                feature = tf.train.Example.FromString(record.numpy()).features.feature
                content = feature["image/encoded"].bytes_list.value[0]
                records[feature["image/filename"].bytes_list.value[0].decode()] = content
        source = data.load(tmp_path / "set", ["train/bee/bad.jpg"])
        everything = [part.encoded(i) for part in (source.train, source.validation) for i in range(len(part))]
        assert sorted(records.values()) == sorted(everything)
        assert records["train/ape/3.jpg"] == jpeg(3)
        found = data.load(tmp_path / "out")
        assert found.class_names == ("ape", "bee")
        assert (len(found.train) + len(found.validation), len(found.test)) == (40, 6)
        again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert again.returncode == 2
        assert again.stderr.count("\n") == 1
        assert "not an empty folder" in again.stderr

    def test_an_interrupted_conversion_leaves_nothing(self, tmp_path, monkeypatch):
        write_classes(tmp_path / "set")
        monkeypatch.setattr(tfrecord, "_write_shard", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tfrecord.convert(tmp_path / "set", tmp_path / "out")
        assert os.listdir(tmp_path) == ["set"]


class TestWhatPicturesLookLike:
    def load(self, picture, kind="PNG", channels=3, **options):
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        return folders.read_image(buffer, channels)

    def test_transparency_is_white(self):
        clear = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
        assert (self.load(clear) == 255).all()
        assert (self.load(Image.new("RGBA", (4, 4), (200, 0, 0, 255))) == [200, 0, 0]).all()
        palette = Image.new("P", (4, 4), 0)
        palette.putpalette([10, 20, 30] * 256)
        assert (self.load(palette) == [10, 20, 30]).all()
        assert (self.load(palette, transparency=0) == 255).all()

    def test_sixteen_bits_are_scaled(self):
        deep = Image.fromarray(np.full((4, 4), 0x8040, np.uint16))
        assert (self.load(deep) == 0x80).all()
        assert (self.load(deep, channels=1) == 0x80).all()

    def test_the_camera_may_be_turned(self):
        tag = Image.Exif()
        tag[0x0112] = 6
        half = np.zeros((8, 16, 3), np.uint8)
        half[:, :8] = 255
        turned = self.load(Image.fromarray(half), exif=tag)
        assert turned.shape == (16, 8, 3)
        assert (turned[:8] == 255).all()
        assert (turned[8:] == 0).all()

    def test_formats_that_start_other_programs_are_not_opened(self):
        assert self.load(Image.new("RGB", (4, 4)), "EPS") is None
