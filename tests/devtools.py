"""A browser steered by the Chrome DevTools Protocol, over its pipe: no driver to install, no port to wait for."""

import base64
import contextlib
import itertools
import json
import os
import queue
import subprocess
import threading
import time

from browser import FLAGS, ended

TIME_LIMIT_S = 60
KEYS = {"Tab": 9, "Enter": 13}


class DevTools:
    """A running browser. `call` sends a command and returns its result; events of a page are kept by the `Page`."""

    def __init__(self, to_browser, from_browser):
        self._to_browser = to_browser
        self._numbers = itertools.count(1)
        self._answers = queue.Queue()
        self._pages = {}
        threading.Thread(target=self._listen, args=(from_browser,), daemon=True).start()

    def _listen(self, stream):
        rest = b""
        while part := os.read(stream, 1 << 20):
            *messages, rest = (rest + part).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self._answers.put(message)
                elif message.get("sessionId") in self._pages:
                    self._pages[message["sessionId"]].events.append((message["method"], message["params"]))
        os.close(stream)

    def call(self, method, session=None, **parameters):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._to_browser, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._answers.get(timeout=TIME_LIMIT_S)
            if answer["id"] == number:
                assert "error" not in answer, f"{method}: {answer.get('error')}"
                return answer["result"]

    @contextlib.contextmanager
    def page(self, *domains):
        """A page with storage, caches and service workers of its own."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, context)
        for domain in ("Page", "Runtime", "Log", *domains):
            page.call(f"{domain}.enable")
        yield page
        del self._pages[session]
        self.call("Target.disposeBrowserContext", browserContextId=context)


class Page:
    """A page of the browser."""

    def __init__(self, devtools, session, context):
        self.devtools, self.session, self.context = devtools, session, context
        self.events = []

    def call(self, method, **parameters):
        return self.devtools.call(method, self.session, **parameters)

    def open(self, url):
        self.call("Page.navigate", url=url)

    def run(self, script):
        """The value of a JavaScript expression, awaited."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script, time_limit_s=TIME_LIMIT_S):
        """Waits until an expression is true, and returns it."""
        deadline = time.monotonic() + time_limit_s
        while time.monotonic() < deadline:
            with contextlib.suppress(AssertionError):  # the page is on its way to another
                if value := self.run(script):
                    return value
            time.sleep(0.05)
        raise AssertionError(f"not within {time_limit_s} s: {script}\n{self.run('document.body?.innerText')}")

    def wait_for_event(self, method, time_limit_s=TIME_LIMIT_S):
        """Waits for an event, forgets it, and returns its parameters."""
        deadline = time.monotonic() + time_limit_s
        while time.monotonic() < deadline:
            if found := next((event for event in self.events if event[0] == method), None):
                self.events.remove(found)
                return found[1]
            time.sleep(0.02)
        raise AssertionError(f"not within {time_limit_s} s: {method}")

    def press(self, key, text="", shift=False):
        """A key of the keyboard, such as `"Tab"`; `text` for one that writes, `"\r"` for Enter."""
        event = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key], "modifiers": 8 * shift}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def complaints(self):
        """What the console and the log hold of warnings, errors and exceptions."""
        found = []
        for method, params in self.events:
            if method == "Runtime.exceptionThrown":
                found.append(params["exceptionDetails"]["exception"].get("description"))
            if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                found.append(" ".join(str(part.get("value", part.get("description"))) for part in params["args"]))
            if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(params["entry"]["text"])
        return found


@contextlib.contextmanager
def steered(browser, profile, log, *flags, gpu=False):
    """A running browser as `DevTools`."""
    flags += tuple(flag for flag in FLAGS if not (gpu and flag == "--disable-gpu"))
    from_test, to_browser = os.pipe()
    from_browser, to_test = os.pipe()
    # The browser reads its descriptor 3 and writes its 4.
    shell = ["bash", "-c", f'exec "$@" 3<&{from_test} 4>&{to_test}', "bash"]
    command = [*shell, browser, *flags, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    pipes = (from_test, to_test)
    process = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=pipes, start_new_session=True)
    for end in pipes:
        os.close(end)
    with ended(process):
        yield DevTools(to_browser, from_browser)
    os.close(to_browser)
