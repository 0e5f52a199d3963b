"""The web app in a headless browser, as a phone shows it, beside LiteRT on this machine."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import urllib.error
import urllib.request

import numpy as np
import pytest
from browser import WEB_APP, ended, served
from devtools import steered
from phone import Phone, address, serving
from PIL import Image

from export import bundle as export_bundle
from export import serve
from export.runtime import Runner
from resnet_keras import data
from resnet_keras.preprocessing import Preprocess

IMAGES = 300
SHOWN = 0.0005 + 1e-9  # half of the last digit of a percentage
LEVELS = 2  # of a pixel: browsers keep colours multiplied by their opacity
MINIMUM_CONTRAST = 4.5  # WCAG 2.2, 1.4.3
MINIMUM_TARGET_PX = 44
NAMED = {"button", "image", "DisclosureTriangle", "region", "heading", "Video"}  # roles that need a name


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The bundled model for browsers, judged by few images."""
    directory = tmp_path_factory.mktemp("bundle")
    test = data.load("fashion_mnist_sample").test
    np.savez(directory / "judging.npz", images=test.images[:IMAGES], labels=test.labels[:IMAGES])
    options = {"targets": ["web"], "eval_data": str(directory / "judging.npz")}
    _, _, failure = export_bundle.write(directory / "resnet20", **options)
    assert failure is None
    return directory / "resnet20"


@pytest.fixture(scope="module")
def index(bundle):
    return json.loads((bundle / "bundle.json").read_text())


@pytest.fixture(scope="module")
def pixels(index):
    """What the model takes of an opaque picture, by Pillow."""
    preprocess = Preprocess(**index["preprocess"])
    return lambda picture: preprocess.pixels(np.asarray(picture.convert("RGB")))


@pytest.fixture(scope="module")
def agree(bundle, index):
    """Asserts that the five answers of a card, and their order, are LiteRT's on this machine for the same pixels."""
    labels = (bundle / "labels.txt").read_text().split("\n")
    (model,) = index["models"]
    runner = Runner(bundle / model["file"])

    def check(card, pixels):
        expected = dict(zip(labels, runner.predict(pixels[None])[0].tolist(), strict=True))
        assert len(card["answers"]) == 5, card
        assert card["answers"][0][0] == max(expected, key=expected.get)
        for label, probability in card["answers"]:
            assert abs(probability - expected[label]) <= model["tolerance"] + SHOWN, card["answers"]

    return check


@pytest.fixture(scope="module")
def built(web_app):
    return serve.built(web_app, print)


@pytest.fixture(scope="module")
def devtools(browser, tmp_path_factory):
    directory = tmp_path_factory.mktemp("browser")
    flags = ("--use-fake-device-for-media-stream", "--host-resolver-rules=MAP phone.test 127.0.0.1")
    with (directory / "log").open("wb") as log, steered(browser, directory, log, *flags) as running:
        yield running


@pytest.fixture(scope="module")
def with_gpu(browser, tmp_path_factory):
    """A browser whose GPU is a program: slow, but WebGPU."""
    directory = tmp_path_factory.mktemp("gpu")
    flags = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
    with (directory / "log").open("wb") as log, steered(browser, directory, log, *flags, gpu=True) as running:
        yield running


@pytest.fixture
def start(built):
    """Serves a bundle, as `start(bundle)`, for as long as there is a `phone`; gives the address."""
    with contextlib.ExitStack() as running:
        yield lambda bundle: address(running.enter_context(serving(bundle, built)))


@pytest.fixture
def phone(devtools, start):
    """A fresh phone, on which nothing may complain but what the test expects."""
    with devtools.page("DOM", "Accessibility") as page:
        phone = Phone(page)
        yield phone
        assert phone.complaints() == []


@pytest.fixture(scope="module")
def url(bundle, built):
    with serving(bundle, built) as server:
        yield address(server)


@pytest.fixture
def copied(bundle, tmp_path):
    """A bundle that may be changed."""
    return pathlib.Path(shutil.copytree(bundle, tmp_path / "copy"))


def rewritten(bundle, name, data):
    """Another file in a bundle, with its sum."""
    (bundle / name).write_bytes(data)
    lines = [line.split("  ") for line in (bundle / "SHA256SUMS").read_text().splitlines()]
    sums = {**{name: digest for digest, name in lines}, name: hashlib.sha256(data).hexdigest()}
    (bundle / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))


class TestAnswers:
    def test_files_get_the_hosts_answers(self, phone, url, bundle, pixels, agree):
        phone.open(url)
        golden = sorted(bundle.glob("golden/0*.png"))
        cards = phone.choose(*golden)
        assert [card["title"] for card in cards] == [path.name for path in golden]
        for path, card in zip(golden, cards, strict=True):
            agree(card, pixels(Image.open(path)))
            assert card["timing"].startswith("Inference ")
        assert len({card["answers"][0][0] for card in cards}) == 10

    def test_the_model_sees_what_the_host_sees(self, phone, url, bundle, pixels, agree, tmp_path):
        photo = Image.open(bundle / "golden" / "photo.png").convert("RGB")
        palette, turned = photo.quantize(64), Image.Exif()
        turned[0x0112] = 6  # a quarter to the right
        faded = photo.copy()
        faded.putalpha(Image.linear_gradient("L").resize(photo.size).point(lambda value: value * (value > 99)))
        white = Image.new("RGBA", photo.size, "white")  # which transparent images are laid on in training
        large = photo.resize((3001, 2003))  # drawn in more than one strip
        cases = {
            "odd.png": (photo, photo, {}),
            "grey.png": (photo.convert("L"), photo.convert("L"), {}),
            "palette.png": (palette, palette, {}),
            "transparent.png": (faded, Image.alpha_composite(white, faded), {}),
            "large.png": (large, large, {"compress_level": 1}),
            "turned.png": (photo, photo.transpose(Image.Transpose.ROTATE_270), {"exif": turned}),
        }
        for name, (picture, _, options) in cases.items():
            picture.save(tmp_path / name, **options)
        phone.open(url)
        for card in phone.choose(*(tmp_path / name for name in cases)):
            expected = pixels(cases[card["title"]][1])
            found = np.reshape(card["seen"], (*expected.shape[:2], 4)).astype(np.uint8)[..., :3]
            np.testing.assert_allclose(found, expected, rtol=0, atol=LEVELS, err_msg=card["title"])
            agree(card, found)

    def test_what_is_no_picture_is_said_and_stops_nothing(self, phone, url, bundle, tmp_path):
        golden = (bundle / "golden" / "07.png").read_bytes()
        files = {
            "broken.png": golden[: len(golden) // 2],
            "IMG_1.HEIC": b"\0\0\0\x18ftypheic" + bytes(99),
            "empty.jpg": b"",
        }
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        phone.open(url)
        *broken, good = phone.choose(*(tmp_path / name for name in files), bundle / "golden" / "07.png")
        for name, card in zip(files, broken, strict=True):
            assert (card["title"], card["answers"]) == (name, [])
            assert "cannot read the file" in card["problem"]
        assert len(good["answers"]) == 5

    def test_samples_are_classified_by_a_tap(self, phone, url):
        phone.open(url)
        phone.tap("#samples li:nth-child(3) button")
        (card,) = phone.cards(1)
        assert card["title"] == f"Test image 3: {card['answers'][0][0]}"
        phone.tap("#clear")
        assert phone.cards(0) == []

    def test_pasted_and_dropped_pictures(self, phone, url, bundle):
        phone.open(url)
        for kind, carrier in (("paste", "clipboardData"), ("drop", "dataTransfer")):
            phone.page.run(
                f"(async () => {{ const blob = await (await fetch('bundle/golden/08.png')).blob(); "
                f"const {carrier} = new DataTransfer(); {carrier}.items.add(new File([blob], '{kind}.png')); "
                f"const event = new Event('{kind}', {{bubbles: true, cancelable: true}}); "
                f"Object.assign(event, {{ {carrier} }}); document.body.dispatchEvent(event); }})()"
            )
        assert {card["title"] for card in phone.cards(2)} == {"paste.png", "drop.png"}


class TestBundle:
    def test_it_says_what_it_is(self, phone, url, index):
        phone.open(url)
        facts = phone.facts()
        assert phone.text("#name") == index["name"]
        assert facts["SHA-256"] == index["models"][0]["sha256"]
        assert facts["Backend"].startswith("WebAssembly takes ")
        assert facts["Self-test"].startswith("10 images, largest difference ")
        assert phone.text("#status-text") == "Self-test passed · WebAssembly · works offline"

    def test_without_a_network(self, phone, copied, built, pixels, agree):
        with serving(copied, built) as server:
            phone.open(address(server))
        phone.expected = ("Failed to load resource: net::ERR_CONNECTION_REFUSED",)  # it looked for a new bundle
        phone.reload()
        golden = copied / "golden" / "03.png"
        agree(phone.choose(golden)[0], pixels(Image.open(golden)))

    def test_another_bundle_replaces_the_old_one(self, phone, copied, start):
        phone.open(start(copied))
        labels = (copied / "labels.txt").read_text().split("\n")
        rewritten(copied, "labels.txt", "\n".join(f"new {label}" for label in labels).encode())
        phone.reload()
        (card,) = phone.choose(copied / "golden" / "07.png")
        assert all(label.startswith("new ") for label, _ in card["answers"])
        kept = phone.page.run("caches.keys()")
        assert [name.rpartition(" ")[0].rpartition(" ")[2] for name in kept].count("bundle") == 1

    @pytest.mark.parametrize("name", ["models/resnet20_int8_web.tflite", "code/javascript/classifier.js"])
    def test_a_changed_byte_is_refused(self, phone, copied, start, name):
        data = bytearray((copied / name).read_bytes())
        data[len(data) // 2] ^= 1
        (copied / name).write_bytes(data)
        phone.expected = ("Error: ",)
        phone.open(start(copied), "failed")
        assert f"No picture can be classified. {name} is not the file that was exported" in phone.text("#status-text")
        assert phone.page.run(
            "document.querySelector('#files').disabled && document.querySelector('#open-camera').disabled"
        )

    def test_a_changed_model_with_a_changed_sum_fails_the_self_test(self, phone, copied, start):
        (file,) = copied.glob("models/*.tflite")
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        rewritten(copied, f"models/{file.name}", data)
        phone.expected = ("Error: ",)
        phone.open(start(copied), "failed")
        assert "SHA-256" in phone.text("#status-text")

    def test_plain_http_is_explained(self, phone, url):
        phone.expected = ("Error: ",)
        phone.open(url.replace("127.0.0.1", "phone.test"), "failed")
        assert "https:// or localhost only" in phone.text("#status-text")


class TestBackends:
    def test_webgpu_is_tested_too_and_the_faster_is_taken(self, with_gpu, url):
        with with_gpu.page("DOM") as page:
            phone = Phone(page)
            phone.open(url)
            assert re.fullmatch(r"WebAssembly takes [\d.]+ ms; WebGPU takes [\d.]+ ms", phone.facts()["Backend"])
            assert page.run("document.querySelector('#notice').hidden")

    def test_a_gpu_that_computes_something_else_is_named(self, with_gpu, url, bundle, pixels, agree):
        spoil = "GPUQueue.prototype.writeBuffer = () => {}"
        with with_gpu.page("DOM") as page:
            page.call("Page.addScriptToEvaluateOnNewDocument", source=spoil)
            phone = Phone(page)
            phone.open(url)
            assert phone.text("#notice").startswith("WebGPU is not used: Answers: golden image ")
            assert phone.text("#status-text").startswith("Self-test passed · WebAssembly")
            golden = bundle / "golden" / "04.png"
            agree(phone.choose(golden)[0], pixels(Image.open(golden)))


class TestBuild:
    """What `npm` does for those who do not use `python -m export.serve`."""

    def test_a_folder_for_any_host(self, phone, web_app, bundle, tmp_path):
        out = tmp_path / "some" / "where"
        subprocess.run(
            ["npm", "run", "build", "--", "--outDir", str(out)],
            cwd=web_app,
            env={**os.environ, "BUNDLE": os.path.relpath(bundle, web_app)},
            check=True,
            capture_output=True,
        )
        with served(tmp_path) as server:
            phone.open(address(server) + "some/where/")
            assert phone.text("#status-text").endswith("works offline")

    def test_the_development_server(self, phone, web_app, bundle):
        command = ["npm", "run", "dev", "--", "--port", "0", "--host", "127.0.0.1"]
        environment = {**os.environ, "BUNDLE": str(bundle), "NO_COLOR": "1"}
        options = {"stdout": subprocess.PIPE, "text": True, "start_new_session": True}
        with ended(subprocess.Popen(command, cwd=web_app, env=environment, **options)) as process, process.stdout:
            local = next(line for line in process.stdout if "Local:" in line)
            phone.open(local.split()[-1])
            assert phone.text("#status-text") == "Self-test passed · WebAssembly"
            for path in ("bundle/missing", "bundle/..%2fjudging.npz"):
                with pytest.raises(urllib.error.HTTPError, match="404") as refusal:
                    urllib.request.urlopen(local.split()[-1] + path)
                refusal.value.close()

    def test_a_folder_that_is_no_bundle(self, web_app, tmp_path):
        environment = {**os.environ, "BUNDLE": str(tmp_path)}
        options = {"cwd": web_app, "env": environment, "capture_output": True, "text": True, "check": False}
        done = subprocess.run(["npm", "run", "build"], **options)
        assert done.returncode != 0
        assert "BUNDLE must name a folder made by python -m export.tflite --bundle" in done.stderr


class TestUse:
    def test_by_keyboard_alone(self, phone, url):
        phone.open(url)
        reached = []
        while "files" not in reached:
            phone.page.press("Tab")
            name, outline = phone.focused()
            reached.append(name)
            assert outline >= 2, reached
            assert len(reached) < 30, reached
        *samples, about, camera, files = reached
        assert [name.partition(":")[0] for name in samples] == [f"Test image {k}" for k in range(1, 11)]
        assert (about, camera, files) == ("About this model", "open-camera", "files")
        for _ in reached[5:]:
            phone.page.press("Tab", shift=True)
        phone.page.press("Enter", text="\r")
        (card,) = phone.cards(1)
        assert card["title"].startswith("Test image 5:")
        assert phone.text("#announcer").startswith(f"{card['title']}: {card['answers'][0][0]}, ")

    def test_everything_has_a_name(self, phone, url, bundle):
        phone.open(url)
        phone.choose(bundle / "golden" / "photo.png")
        met = phone.accessible()
        assert [role for role, name in met if role in NAMED and not name] == []
        assert {("button", "Camera"), ("button", "Pictures"), ("region", "Results")} <= set(met)
        assert {("heading", "photo.png"), ("image", "What the model sees, 32 by 32 pixels")} <= set(met)
        assert [role for role, _ in met].count("status") == 2

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_it_can_be_read_and_touched(self, devtools, url, bundle, tmp_path, scheme):
        folder = pathlib.Path(os.environ.get("SCREENSHOTS", tmp_path))
        with devtools.page("DOM") as page:
            phone = Phone(page, scheme)
            phone.open(url)
            page.screenshot(folder / f"{scheme}_welcome.png")
            self.check(phone)
            phone.choose(bundle / "golden" / "photo.png", bundle / "golden" / "07.png", bundle / "labels.txt")
            page.run("document.querySelector('#about').open = true")
            page.screenshot(folder / f"{scheme}_results.png")
            self.check(phone)
            page.run("scrollTo(0, document.body.scrollHeight)")
            page.screenshot(folder / f"{scheme}_about.png")
            devtools.call(
                "Browser.setPermission", permission={"name": "camera"}, setting="denied", browserContextId=page.context
            )
            phone.tap("#open-camera")
            page.wait("!document.querySelector('#notice').hidden")
            self.check(phone)
        picture = np.asarray(Image.open(folder / f"{scheme}_welcome.png").convert("L"))
        assert (np.median(picture) > 200) == (scheme == "light")

    def check(self, phone):
        faint = [text for text in phone.contrasts() if text[0] < MINIMUM_CONTRAST]
        assert faint == []
        small = [size for size in phone.targets() if min(size[:2]) < MINIMUM_TARGET_PX]
        assert small == []
        for width in (320, 390):
            phone.resize(width)
            assert phone.page.run("document.documentElement.scrollWidth") == width

    def test_camera(self, phone, devtools, url, tmp_path):
        phone.open(url)
        permission = {"permission": {"name": "camera"}, "browserContextId": phone.page.context}
        devtools.call("Browser.setPermission", setting="denied", **permission)
        phone.tap("#open-camera")
        phone.page.wait("!document.querySelector('#notice').hidden")
        assert phone.text("#notice").startswith("The camera may not be used here.")
        devtools.call("Browser.setPermission", setting="granted", **permission)
        phone.tap("#open-camera")
        phone.page.wait("document.querySelectorAll('#live .answers li').length === 5")
        assert phone.text("#notice") == ""
        met = phone.accessible()
        assert [role for role, name in met if role in NAMED and not name] == []
        assert {("button", "Take a picture"), ("button", "Close"), ("Video", "What the camera sees")} <= set(met)
        phone.page.screenshot(pathlib.Path(os.environ.get("SCREENSHOTS", tmp_path)) / "camera.png")
        first = phone.text("#live")
        phone.page.wait(f"document.querySelector('#live').textContent.trim() !== {json.dumps(first)}")
        phone.tap("#shutter")
        (card,) = phone.cards(1)
        assert card["title"].startswith("Camera, ")
        assert len(card["answers"]) == 5
        assert phone.page.run("document.querySelector('#video').srcObject === null")

    def test_pictures_cannot_leave(self, phone, url):
        phone.open(url)
        phone.expected = ("Connecting to 'http://192.0.2.1/' violates", "Fetch API cannot load http://192.0.2.1/")
        refused = "addEventListener('securitypolicyviolation', ({blockedURI}) => resolve(blockedURI), {once: true})"
        send = "fetch('http://192.0.2.1/', {method: 'POST', body: 'picture'}).catch(() => {})"
        assert phone.page.run(f"new Promise((resolve) => {{ {refused}; {send}; }})") == "http://192.0.2.1/"

    def test_it_can_be_installed(self, phone, url):
        phone.open(url)
        manifest = phone.page.call("Page.getAppManifest")
        assert manifest["errors"] == []
        for icon in json.loads(manifest["data"])["icons"]:
            if icon["type"] == "image/png":
                with Image.open(WEB_APP / "public" / icon["src"]) as picture:
                    assert icon["sizes"] == "x".join(map(str, picture.size))
        found = phone.page.call("Page.getInstallabilityErrors")["installabilityErrors"]
        assert [error["errorId"] for error in found if error["errorId"] != "in-incognito"] == []
