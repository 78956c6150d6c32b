"""Renew the pictures of the page in docs/images: a real server, a real Chromium, the demo clip.

    python scripts/page_screenshots.py [--out docs/images] [--chromium /usr/bin/chromium]

Needs the extra `serve` and `pip install playwright`; any Chromium does.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--font-render-hinting=none",
)  # fmt: skip
SIZES = {"light": (1280, 800), "dark": (1280, 800), "phone": (390, 844)}
QUESTIONS = ("where is the star?", "who disappears first, the circle or the triangle?")
IS_SHOWN = "(v => v && v.readyState >= 2 && !v.seeking)(document.querySelector('video'))"


def find_chromium() -> str | None:
    """Return the path of a Chromium or Chrome on this machine, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


@contextmanager
def serving(cache_dir: Path) -> Iterator[str]:
    """Run `voco-video serve` on a free port; yields its address."""
    program = "from voco_video.cli import main; main()"
    command = [sys.executable, "-c", program, "serve", "--port", "0", "--cache-dir", str(cache_dir)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert server.stderr is not None
        for line in server.stderr:
            if found := re.search(r"serving .* on (http://\S+)", line):
                break
        else:
            raise SystemExit(f"the server ended with status {server.wait()}")
        yield found[1]
    finally:
        server.terminate()
        server.communicate(timeout=60)


def wait_until(page: Any, expression: str, *, seconds: float = 60.0) -> None:
    """Wait until an expression is true in a page. Playwright's own way is eval, which the page's policy forbids."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{expression}: not true after {seconds:g} s")
        page.wait_for_timeout(50)


def take_pictures(browser: Any, url: str, out: Path) -> list[Path]:
    """Add the demo clip, ask about it, and take the page in each of `SIZES`."""
    taken = []
    for name, (width, height) in SIZES.items():
        context = browser.new_context(
            viewport={"width": width, "height": height},
            device_scale_factor=1.5 if name == "phone" else 1,
            color_scheme="dark" if name == "dark" else "light",
        )
        page = context.new_page()
        page.goto(url)
        if page.locator(".card").count() == 0 and name == "light":
            page.get_by_role("button", name="Add the demo clip").click()
        else:
            page.locator(".card-link").first.click()
        page.get_by_label("Question about this video").wait_for(timeout=60_000)
        for question in QUESTIONS:
            page.get_by_label("Question about this video").fill(question)
            page.get_by_role("button", name="Ask", exact=True).click()
            page.get_by_role("button", name="Ask", exact=True).wait_for()
        page.locator(".evidence a").last.click()
        wait_until(page, IS_SHOWN)
        page.mouse.move(5, height - 5)
        page.wait_for_timeout(2000)  # the player fades its signs of waiting out
        path = out / f"page-{name}.png"
        page.screenshot(path=path, full_page=name == "phone")
        few_colours = Image.open(path).convert("RGB").quantize(128, dither=Image.Dither.NONE)
        few_colours.save(path, optimize=True)  # a third of the bytes
        taken.append(path)
        context.close()
    return taken


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--chromium", default=find_chromium())
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=list(FLAGS))
        for path in take_pictures(browser, url, options.out):
            print(path)
        browser.close()


if __name__ == "__main__":
    main()
