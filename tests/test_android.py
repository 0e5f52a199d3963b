"""The Android example. Nothing here compiles it: its files name the same things, and a bundle has what they name."""

import pathlib
import re
import xml.etree.ElementTree as ElementTree

from export import templates

ANDROID = pathlib.Path(__file__).parent.parent / "examples" / "android"
BUILD = (ANDROID / "app" / "build.gradle.kts").read_text()
SOURCES = ANDROID / "app" / "src" / "main"
ACTIVITY = next(SOURCES.rglob("MainActivity.kt"))
LAYOUT, STRINGS, MANIFEST = (
    ElementTree.parse(SOURCES / name)
    for name in ("res/layout/main.xml", "res/values/strings.xml", "AndroidManifest.xml")
)
NAMESPACE = "{http://schemas.android.com/apk/res/android}"


def test_it_takes_what_a_bundle_has():
    common, runtime = (templates.SNIPPETS / folder / "kotlin" for folder in ("common", "tflite"))
    for path in re.findall(r'bundle\.resolve\("code/kotlin/?([^"]*)"\)', BUILD):
        assert (common / path).exists()
    code = "".join(path.read_text() for folder in (common, runtime) for path in folder.glob("*.kt"))
    used = re.findall(r"^import classifier\.(\w+)$", ACTIVITY.read_text(), re.MULTILINE)
    assert "Classifier" in used
    for name in used:
        assert re.search(rf"^(data )?class {name}\b", code, re.MULTILINE), name


def test_its_dependencies_are_pinned():
    catalog = (ANDROID / "gradle" / "libs.versions.toml").read_text()
    versions = dict(re.findall(r'^(\w+) = "(\d+\.\d+\.\d+)"', catalog, re.MULTILINE))
    entries = dict(re.findall(r'^([\w-]+) = \{ .*version\.ref = "(\w+)" \}$', catalog, re.MULTILINE))
    assert set(entries.values()) == set(versions)
    used = re.findall(r"libs\.(?:plugins\.)?([\w.]+)\)", BUILD)
    assert {name.replace(".", "-") for name in used} == set(entries)


def test_it_names_only_what_it_has():
    has = {("layout", "main"), *(("string", entry.get("name")) for entry in STRINGS.getroot())}
    has |= {("id", node.get(NAMESPACE + "id").partition("/")[2]) for node in LAYOUT.getroot()}
    used = set(re.findall(r"\bR\.(\w+)\.(\w+)", ACTIVITY.read_text()))
    for node in (*LAYOUT.iter(), *MANIFEST.iter()):
        used |= {tuple(value[1:].split("/")) for value in node.attrib.values() if value.startswith("@string/")}
    assert used == has
    namespace = re.search(r'namespace = "(.*)"', BUILD)[1]
    assert ACTIVITY.parent == SOURCES / "kotlin" / pathlib.Path(*namespace.split("."))
    assert ACTIVITY.read_text().startswith(f"package {namespace}\n")
    assert MANIFEST.find(".//activity").get(NAMESPACE + "name") == f".{ACTIVITY.stem}"


def test_it_asks_for_the_camera_alone_and_can_be_read_aloud():
    assert [node.get(NAMESPACE + "name") for node in MANIFEST.iter("uses-permission")] == ["android.permission.CAMERA"]
    for node in LAYOUT.getroot():
        spoken = ("contentDescription", "text", "accessibilityLiveRegion")
        assert any(node.get(NAMESPACE + name) for name in spoken), node.tag
