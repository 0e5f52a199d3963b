"""The web app on a phone's screen: what a person does with it, and what it shows."""

import contextlib
import json
import threading
import time

from export import serve

WIDTH, HEIGHT = 390, 844
# What the runtime and the browser say of a machine without a GPU or an NPU; LiteRT logs everything as an error.
CHATTER = ("INFO: ", "WARNING: [npu_registry", "No available adapters", "Failed to create default WebGPU device")
READ_CARDS = """Array.from(document.querySelectorAll("#list > li:not([aria-busy])"), (card) => ({
    title: card.querySelector("h3").textContent,
    problem: card.querySelector(".problem")?.textContent,
    timing: card.querySelector(".timing")?.textContent,
    answers: Array.from(card.querySelectorAll(".answers li"), (answer) => [
        answer.querySelector(".label").textContent,
        parseFloat(answer.querySelector(".percent").textContent) / 100,
    ]),
    seen: Array.from(card.querySelector(".seen")?.getContext("2d")
        .getImageData(0, 0, card.querySelector(".seen").width, card.querySelector(".seen").height).data ?? []),
}))"""
FOCUSED = """(() => {
    const e = document.activeElement;
    const shown = e.id === "files" ? e.nextElementSibling : e;
    const name = e.id || e.textContent.trim() || e.querySelector("img").alt;
    const { outlineStyle, outlineWidth } = getComputedStyle(shown);
    return [name, outlineStyle === "none" ? 0 : parseFloat(outlineWidth)];
})()"""

CONTRASTS = """(() => {
    const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const over = ([r, g, b, a = 1], below) => [r, g, b].map((value, k) => value * a + below[k] * (1 - a));
    const ground = (e) => e
        ? over(parse(getComputedStyle(e).backgroundColor), ground(e.parentElement))
        : [255, 255, 255];
    const luminance = (colour) => colour.slice(0, 3)
        .map((value) => value / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const found = [];
    while (walker.nextNode()) {
        const e = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !e.checkVisibility() || e.closest(".unseen, template, script")) continue;
        const below = ground(e);
        const [light, dark] = [luminance(over(parse(getComputedStyle(e).color), below)), luminance(below)]
            .sort((a, b) => b - a);
        found.push([(light + 0.05) / (dark + 0.05), walker.currentNode.data.trim()]);
    }
    return found;
})()"""

TARGETS = """Array.from(document.querySelectorAll("button, summary, label"), (e) => {
    const { width, height } = e.getBoundingClientRect();
    return [width, height, e.outerHTML.slice(0, 80)];
}).filter(([width]) => width > 0)"""


@contextlib.contextmanager
def serving(bundle, app):
    """The address of a server of `export.serve`, which can be stopped early."""
    with serve.server(bundle, app, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()


def address(server):
    return f"http://127.0.0.1:{server.server_port}/"


class Phone:
    """A page of the browser, of a phone's size and with its touch screen; `expected` are beginnings of complaints."""

    def __init__(self, page, scheme="light", expected=()):
        self.page, self.expected = page, expected
        self.resize(WIDTH)
        page.call("Emulation.setTouchEmulationEnabled", enabled=True)
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def resize(self, width):
        size = {"width": width, "height": HEIGHT}
        self.page.call("Emulation.setDeviceMetricsOverride", deviceScaleFactor=2, mobile=True, **size)

    def open(self, url, state="ready"):
        """Opens the app, waits for what comes of it, and returns how long that took, in seconds."""
        started = time.monotonic()
        self.page.open(url)
        return self.settled(state) - started

    def reload(self, state="ready"):
        self.page.run("document.querySelector('#status').dataset.state = 'left'")
        self.page.call("Page.reload")
        self.settled(state)

    def settled(self, state):
        found = self.page.wait(
            "['ready', 'failed'].find((s) => s === document.querySelector('#status')?.dataset.state)"
        )
        assert found == state, self.text("#status")
        return time.monotonic()

    def text(self, selector):
        return self.page.run(f"document.querySelector({json.dumps(selector)}).textContent.trim()")

    def facts(self):
        """What stands under "About this model"."""
        return self.page.run(
            "Object.fromEntries(Array.from(document.querySelectorAll('#about-list dt'), (term) => "
            "[term.textContent, term.nextElementSibling.textContent]))"
        )

    def tap(self, selector):
        element = f"document.querySelector({json.dumps(selector)})"
        self.page.run(f"{element}.scrollIntoView({{block: 'center'}})")
        left, top, width, height = self.page.run(
            f"(({{x, y, width, height}}) => [x, y, width, height])({element}.getBoundingClientRect())"
        )
        point = {"x": left + width / 2, "y": top + height / 2}
        self.page.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[point])
        self.page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def choose(self, *paths):
        """Chooses files in the page's dialogue, and returns the cards that come of them, in their order."""
        before = self.page.run("document.querySelectorAll('#list > li').length")
        self.page.call("Page.setInterceptFileChooserDialog", enabled=True)
        self.tap("label[for=files]")
        dialogue = self.page.wait_for_event("Page.fileChooserOpened")
        assert dialogue["mode"] == "selectMultiple"
        files = [str(path) for path in paths]
        self.page.call("DOM.setFileInputFiles", files=files, backendNodeId=dialogue["backendNodeId"])
        return self.cards(before + len(paths))[: len(paths)]

    def cards(self, count):
        self.page.wait(f"document.querySelectorAll('#list > li:not([aria-busy])').length === {count}")
        return self.page.run(READ_CARDS)

    def focused(self):
        """Name of what has the keyboard, and the width of the line around it, in pixels."""
        return self.page.run(FOCUSED)

    def accessible(self):
        """`(role, name)` of everything that a screen reader meets."""
        nodes = self.page.call("Accessibility.getFullAXTree")["nodes"]
        return [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]]

    def contrasts(self):
        """`(contrast, text)` of every text that can be seen."""
        return self.page.run(CONTRASTS)

    def targets(self):
        """`(width, height, name)` of everything that can be touched, in pixels."""
        return self.page.run(TARGETS)

    def complaints(self):
        """What went wrong on the page, other than what was expected."""
        return [text for text in self.page.complaints() if not text.startswith((*CHATTER, *self.expected))]
