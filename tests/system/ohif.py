"""OHIF in a headless Chromium, over the DICOMweb of a PACS: what a radiologist sees of results.

The built viewer is served from its npm package, and requests for `/dicom-web` go on to the PACS
under the same origin, as a hospital's reverse proxy does it.
"""

import base64
import http.client
import io
import json
import re
import threading
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Error, sync_playwright

from tests.system.peers import DICOMWEB_PLUGIN, REPOSITORY

CHROMIUM = Path("/usr/bin/chromium")
OHIF = REPOSITORY / ".peers" / "ohif" / "dist"
_NEEDED = {
    "OHIF": OHIF.exists(),
    "Chromium": CHROMIUM.exists(),
    "Orthanc's DICOMweb plug-in": DICOMWEB_PLUGIN.exists(),
}
needs_ohif = pytest.mark.skipif(
    not all(_NEEDED.values()),
    reason=f"not installed: {', '.join(name for name, there in _NEEDED.items() if not there)}"
    " (tests/install_peers.sh)",
)

BY_PROXY = "/dicom-web"


def configuration(root=BY_PROXY):
    """OHIF's app-config.js for the DICOMweb at `root`."""
    source = {
        "friendlyName": "PACS",
        "qidoRoot": root,
        "wadoRoot": root,
        "imageRendering": "wadors",
        "thumbnailRendering": "wadors",
        "enableStudyLazyLoad": True,
        "supportsWildcard": True,
        "omitQuotationForMultipartRequest": True,
        "bulkDataURI": {"enabled": True},
    }
    config = {
        "routerBasename": None,
        "extensions": [],
        "modes": [],
        "showStudyList": True,
        "investigationalUseDialog": {"option": "never"},
        "defaultDataSourceName": "pacs",
        "dataSources": [
            {
                "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
                "sourceName": "pacs",
                "configuration": source,
            }
        ],
    }
    return f"window.config = {json.dumps(config)};"


TOUR_WAS_SEEN = "localStorage.setItem('shownTours', '[\"basicViewerTour\"]')"
TRACKED = """() => cornerstoneTools.annotation.state.getAllAnnotations()
    .map(one => one.data.TrackingUniqueIdentifier).filter(Boolean)"""

DRAWN = """() => {
    const canvas = document.querySelector('canvas.cornerstone-canvas');
    const whole = canvas.getBoundingClientRect();
    const scale = canvas.width / whole.width;
    const boxes = [...document.querySelectorAll('svg.svg-layer polyline, svg.svg-layer rect')]
        .map(one => one.getBoundingClientRect()).filter(one => one.width && one.height);
    return [
        Math.min(...boxes.map(one => one.left)) - whole.left,
        Math.min(...boxes.map(one => one.top)) - whole.top,
        Math.max(...boxes.map(one => one.right)) - whole.left,
        Math.max(...boxes.map(one => one.bottom)) - whole.top,
    ].map(one => one * scale);
}"""


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *args, pacs_port, app_config, **kwargs):
        self.pacs_port = pacs_port
        self.app_config = app_config
        super().__init__(*args, **kwargs)

    def do_GET(self):
        path = urlsplit(self.path).path
        if path.startswith("/dicom-web"):
            self._forward()
        elif path == "/app-config.js":
            self._answer(self.app_config.encode(), "text/javascript")
        else:
            if not Path(self.translate_path(path)).is_file():
                self.path = "/index.html"  # a page of the viewer itself
            super().do_GET()

    def _forward(self):
        """Ask the PACS under the name that the browser used, so that its URLs lead here."""
        pacs = http.client.HTTPConnection("127.0.0.1", self.pacs_port, timeout=60)
        try:
            headers = {
                name: self.headers[name] for name in ("Host", "Accept") if self.headers[name]
            }
            # Debian 12's plug-in does not take a comma of includefield that is percent-encoded.
            pacs.request("GET", self.path.replace("%2C", ","), headers=headers)
            reply = pacs.getresponse()
            self._answer(reply.read(), reply.headers["Content-Type"], reply.status)
        finally:
            pacs.close()

    def _answer(self, body, content_type, status=HTTPStatus.OK):
        self.send_response(status)
        if content_type:
            self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self):
        # The decoders of compressed images share memory between threads.
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *args):
        """Say nothing."""


@contextmanager
def served(pacs_port, app_config, port=0):
    """Serve the viewer over a PACS whose HTTP port is given; yields its URL."""
    handler = partial(_Handler, directory=str(OHIF), pacs_port=pacs_port, app_config=app_config)
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


class Viewer:
    """A window of OHIF; `errors` is what the console, the page and the server had to say."""

    def __init__(self, context, url, token=""):
        self._context = context
        self._url = url
        self._token = f"&token={token}" if token else ""
        self.errors = []
        self.page = None

    @contextmanager
    def over(self, root, *, token, port):
        """The same browser, with OHIF served at `port` over the DICOMweb at `root`."""
        with served(None, configuration(root), port) as url:
            window = Viewer(self._context, url, token)
            yield window
            window.page.close()

    def open(self, study_uid):
        """Open a study in a window of its own, as a link from the worklist does."""
        if self.page is not None:
            self.page.close()
        self.errors.clear()
        self.page = self._context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(f"page: {error}"))
        self.page.on("response", self._response)
        self.page.goto(f"{self._url}/viewer?StudyInstanceUIDs={study_uid}{self._token}")
        # A series that is asked for before the first one is shown is lost.
        self._named("viewport-overlay-bottom-right").first.filter(has_text="/").wait_for()
        return self

    def _console(self, message):
        if message.type == "error":
            self.errors.append(f"console: {message.text}")

    def _response(self, response):
        if response.status >= 400:
            self.errors.append(f"{response.status}: {response.url}")

    def _named(self, name):
        return self.page.locator(f'[data-cy="{name}"]')

    def show(self, modality, *, description=""):
        """Double-click a series in the list at the left."""
        rows = self.page.locator('[data-cy^="study-browser-thumbnail"]')
        rows.filter(has_text=modality).filter(has_text=description).first.dblclick()

    def await_question(self, question):
        """Wait until the viewer asks something."""
        try:
            self.page.get_by_text(question).wait_for()
        except Error:
            pytest.fail(f"the viewer does not ask '{question}': {self.errors}")

    def accept(self, question):
        """Answer Yes to what the viewer asks."""
        self.await_question(question)
        self.page.get_by_role("button", name="Yes", exact=True).click()
        self.page.get_by_text(question).wait_for(state="detached")

    def open_panel(self, name):
        """Open a panel at the right; returns the text of each of its rows."""
        self._named(f"{name}-btn").click()
        self._named("data-row").first.wait_for()
        return self._named("data-row").all_inner_texts()

    def click_row(self, number):
        """Click a row of the panel: the viewer jumps to what it stands for."""
        self._named("data-row").nth(number).click()

    def instance_number(self):
        """Number of the image that is shown, as the viewport says it; None before one is."""
        said = self._named("viewport-overlay-bottom-right").first.inner_text()
        found = re.search(r"I:\s*(\d+)", said)
        return int(found.group(1)) if found else None

    def go_to_first_image(self):
        """Go to the first image of the series, by the key for it."""
        self._named("viewport-pane").first.hover()
        self.page.keyboard.press("Home")
        self._named("viewport-overlay-bottom-right").first.filter(has_text="(1/").wait_for()

    def orientation(self):
        """The letters at the left and at the top of the image."""
        return tuple(
            self.page.locator(f".{side}-mid.orientation-marker").first.inner_text()
            for side in ("left", "top")
        )

    def pixels(self):
        """The image as it is on the canvas, with overlays but without lines and words [y, x, 3]."""
        encoded = self.page.evaluate(
            "() => document.querySelector('canvas.cornerstone-canvas').toDataURL().split(',')[1]"
        )
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))

    def words(self):
        """Lines of text that are drawn over the image."""
        return self.page.locator("svg.svg-layer tspan").all_text_contents()

    def lines_box(self):
        """Left, top, right and bottom of the outlines that are drawn, in pixels of the canvas."""
        return self.page.evaluate(DRAWN)

    def tracked(self):
        """Tracking Unique Identifiers of what is drawn."""
        return self.page.evaluate(TRACKED)

    def whole(self):
        """The whole window [y, x, 3]."""
        return np.asarray(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"))

    def screenshot(self, path):
        """Keep the window as a small PNG of few colours."""
        small = Image.fromarray(self.whole()).resize((960, 600), Image.Resampling.LANCZOS)
        small.quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


@contextmanager
def viewer(pacs_port):
    """OHIF over a PACS, in a browser of its own."""
    with served(pacs_port, configuration()) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--headless=new"]
        )
        try:
            context = browser.new_context(viewport={"width": 1280, "height": 800})
            context.add_init_script(TOUR_WAS_SEEN)
            yield Viewer(context, url)
        finally:
            browser.close()
