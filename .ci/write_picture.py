"""Writes docs/explorer.png: the explorer page with one user's list, in its light theme; `make picture` calls it.

usage: python .ci/write_picture.py EXPORT_DIR USER_ID [OUTPUT]

It serves the export on a free port of this machine, opens the page in Chromium (apt-get install chromium, or python -m
playwright install chromium), waits for the list, and takes the picture.
"""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from playwright.sync_api import sync_playwright

SIZE = {"width": 1360, "height": 1500}
LIMIT_S = 600
ROOT = pathlib.Path(__file__).resolve().parent.parent


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def wait_for(url: str, server: subprocess.Popen) -> None:
    """Returns once the server answers."""
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    sys.exit(f"the server did not answer at {url}")


def take(url: str, output: str) -> None:
    """The picture of the page, once its list is there."""
    names = ("chromium", "chromium-browser", "google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=next(filter(None, map(shutil.which, names)), None),
            args=["--no-sandbox"] if os.geteuid() == 0 else [],
        )
        page = browser.new_page(viewport=SIZE, color_scheme="light", reduced_motion="reduce")
        page.set_default_timeout(LIMIT_S * 1000)
        page.goto(url)
        page.wait_for_selector("body:not([aria-busy]) [data-item]")
        page.get_by_role("button", name="No, thanks").click()  # the offer of a tour
        page.screenshot(path=output)
        browser.close()


def main(export_dir: str, user: str, output: str = str(ROOT / "docs" / "explorer.png")) -> None:
    """Serves, looks, and stops the server."""
    module = [sys.executable, "-m"]
    with tempfile.TemporaryDirectory() as folder:
        users, port = f"{folder}/users.json", free_port()
        ids = [f"--export_dir={export_dir}", f"--user_ids={user}", f"--output={users}"]
        subprocess.run([*module, "longretriever_tf.sample_users", *ids], check=True)
        name = "longretriever"
        given = [f"--model_base_path={os.path.abspath(export_dir)}", f"--model_name={name}", "--port=0"]
        given += [f"--rest_api_port={port}", "--explorer", f"--explorer_users={users}"]
        server = subprocess.Popen([*module, "longretriever_tf.serve", *given])
        try:
            wait_for(f"http://127.0.0.1:{port}/v1/models/{name}", server)
            take(f"http://127.0.0.1:{port}/explorer/", output)
        finally:
            server.terminate()
            server.wait()
    print(f"written: {output}")


if __name__ == "__main__":
    main(*sys.argv[1:])
