"""The page in a real Chromium, against a real server: what a person does there, by mouse and by keyboard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

pytest.importorskip("playwright", reason="drives a browser (pip install playwright)")
pytest.importorskip("fastapi", reason="the server (extra serve)")

import httpx2
from playwright.sync_api import sync_playwright

from scripts.page_screenshots import FLAGS, IS_SHOWN, find_chromium, take_pictures, wait_until
from tests.helpers.serving import Serving, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium on this machine"),
]
KEY = "a-key-of-this-server"
BAD_NAME = "<img src=x onerror=alert(1)><b>bold&amp;.mp4"


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("page")
    (folder / "root" / "inner").mkdir(parents=True)
    with serving(folder, media_root=folder / "root", allow_urls=True) as running:
        (folder / "root" / "inner" / "street.mp4").write_bytes(running.demo.read_bytes() + b"\0" * 8)
        running.upload(running.demo)
        yield running


@contextmanager
def opened(browser, url: str, *, may_fail: str = "$^", **options):
    """Open a page; nothing may be written to its console, but errors of requests that match `may_fail`."""
    context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, **options})
    context.set_default_timeout(60_000)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text} {message.location.get('url')}"))
    page.on("pageerror", lambda error: said.append(f"uncaught: {error}"))
    page.on("dialog", lambda dialog: said.append(f"a script ran: {dialog.message}"))
    page.goto(url)
    yield page
    context.close()
    assert [line for line in said if not re.search(may_fail, line)] == []


def ask(page, question: str) -> None:
    """Ask, and wait until the answer is whole."""
    page.get_by_label("Question about this video").fill(question)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Ask", exact=True).wait_for()


def shown_seconds(page) -> float:
    """The time that the player shows, once it does."""
    wait_until(page, IS_SHOWN)
    return page.evaluate("document.querySelector('video').currentTime")


def has_no_sideways_scroll(page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_a_newcomer_uploads_asks_and_jumps(browser, tmp_path):
    """As the README says it: from an empty library to the evidence."""
    with serving(tmp_path) as server, opened(browser, server.url) as page:
        page.get_by_text("No videos yet").wait_for()
        page.get_by_label("Choose videos").set_input_files(server.demo)
        page.get_by_label("Question about this video").wait_for()  # the first video opens by itself
        answer = server.video().ask("where is the star?", with_attention=True, max_new_tokens=256)
        ask(page, "where is the star?")
        assert page.locator(".answer").inner_text() == answer.text == "top left"
        moment = answer.evidence[0]
        link = page.locator(".evidence a").first
        assert f"({moment.share:.0%})".replace("%", " %") in link.inner_text()
        page.get_by_role("slider").press("End")
        link.click()
        assert shown_seconds(page) == pytest.approx(moment.start_seconds, abs=0.05)
        most = int(np.argmax(answer.frame_attention))
        caption = page.locator(".timeline-caption").inner_text()
        assert f"0:{answer.frame_pts_seconds[most]:02.0f} ({answer.frame_attention[most] * 100:.0f} %)" in caption


def test_answers_are_streamed_and_can_be_stopped(browser, server):
    """Words stand on the page before the answer is whole; what was asked stays with what came."""
    with opened(browser, f"{server.url}/#/video/{server.demo_id}") as page:
        question = page.get_by_label("Question about this video")
        question.wait_for()
        page.evaluate(
            """() => {
              window.lengths = [];
              const read = () => window.lengths.push(document.querySelector('.answer')?.textContent.length ?? 0);
              new MutationObserver(read).observe(document.querySelector('.log'), {subtree: true, childList: true});
            }"""
        )
        ask(page, "Describe the video.")
        truth = server.video().ask("Describe the video.", max_new_tokens=256).text
        assert page.locator(".answer").inner_text().removesuffix("…") == truth
        grown = page.evaluate("window.lengths")
        assert len({n for n in grown if 0 < n < len(truth)}) >= 2, grown
        question.fill("Describe the video.")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Stop").click()
        page.locator(".turn", has_text="Stopped.").wait_for()
        ask(page, "who moves?")
        assert page.locator(".turn").count() == 3


def test_the_history_is_sent_along_and_kept_while_one_looks_elsewhere(browser, server):
    from voco_video.answer.generate import Message

    with opened(browser, f"{server.url}/#/video/{server.demo_id}") as page:
        ask(page, "who moves?")
        ask(page, "where is the star?")
        past = [Message("user", "who moves?"), Message("assistant", page.locator(".answer").first.inner_text())]
        assert page.locator(".answer").last.inner_text() == server.video().ask("where is the star?", history=past).text
        page.get_by_role("link", name="← Library").click()
        page.get_by_role("heading", name="Library").wait_for()
        page.locator(".card-link", has_text="clip.mp4").click()
        page.get_by_label("Question about this video").wait_for()
        assert page.locator(".answer").count() == 2
        assert "Each bar is a frame" in page.locator(".timeline-caption").inner_text()


def test_the_timeline_by_mouse_and_keyboard(browser, server):
    with opened(browser, f"{server.url}/#/video/{server.demo_id}?t=2") as page:
        slider = page.get_by_role("slider")
        assert shown_seconds(page) == pytest.approx(2.0, abs=0.05)
        box = slider.bounding_box()
        page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + 20)
        assert shown_seconds(page) == pytest.approx(6.0, abs=0.1)
        slider.press("ArrowLeft")
        assert shown_seconds(page) == pytest.approx(5.0, abs=0.1)
        slider.press("Home")
        assert (shown_seconds(page), slider.get_attribute("aria-valuenow")) == (0, "0.00")
        ask(page, "who disappears first, the circle or the triangle?")
        evidence = server.video().ask(
            "who disappears first, the circle or the triangle?", with_attention=True
        ).evidence  # fmt: skip
        starts = sorted(moment.start_seconds for moment in evidence)
        slider.focus()
        for start in [start for start in starts if start > 0]:
            page.keyboard.press("n")
            assert shown_seconds(page) == pytest.approx(start, abs=0.05)
        assert "% of the attention" in slider.get_attribute("aria-valuetext")
        page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 20)
        page.locator(".tip img").wait_for()
        assert "0:04 ·" in page.locator(".tip").inner_text()


def test_times_in_answers_are_links(browser, server):
    """Those that lie in the video; lengths, scores and times beyond its end are not."""
    said = "It falls at 0:03 and at 5 seconds, for 2 seconds; it rests at 1:30. Ratio 16:9, 4.5s, 00:00:07."
    chunk = json.dumps({"choices": [{"index": 0, "delta": {"content": said}, "finish_reason": "stop"}]})
    with opened(browser, f"{server.url}/#/video/{server.demo_id}") as page:
        page.route("**/v1/chat/completions", lambda route: route.fulfill(
            content_type="text/event-stream", body=f"data: {chunk}\n\ndata: [DONE]\n\n"))  # fmt: skip
        ask(page, "when?")
        links = page.locator(".answer a")
        assert links.all_inner_texts() == ["0:03", "5 seconds", "4.5s", "00:00:07"]
        assert page.locator(".answer").inner_text() == said
        links.nth(2).click()
        assert shown_seconds(page) == pytest.approx(4.5, abs=0.05)
        assert links.nth(3).get_attribute("href").endswith("?t=7")


def test_search_over_all_videos_plays_from_the_moment(browser, server):
    with opened(browser, server.url) as page:
        page.get_by_role("heading", name="Library").wait_for()
        page.keyboard.press("/")
        page.keyboard.type("a square")
        page.keyboard.press("Enter")
        page.locator(".card").first.wait_for()
        found = httpx2.post(f"{server.url}/api/find", json={"query": "a square", "num_moments": 24}).json()
        assert page.locator(".card").count() == len(found["moments"])
        best = found["moments"][0]
        first = page.locator(".card-link").first
        assert first.get_attribute("href") == f"#/video/{best['video']}?t={best['start_seconds']:g}&play=1"
        wait_until(page, "document.querySelector('.card img')?.naturalWidth > 0")
        last = found["moments"][-1]
        page.locator(f".card-link[href*='?t={last['start_seconds']:g}&']").last.click()
        wait_until(page, "document.querySelector('video')?.paused === false")
        assert page.evaluate("document.querySelector('video').currentTime") >= last["start_seconds"] - 0.05


def test_adding_from_the_folder_and_deleting(browser, server):
    with opened(browser, server.url) as page:
        page.get_by_text("From the server's folder").click()
        page.get_by_role("button", name="inner/").click()
        page.get_by_role("button", name="Add street.mp4").click()
        card = page.locator(".card", has_text="street.mp4")
        card.wait_for()
        card.get_by_role("button", name="Delete street.mp4").click()
        page.get_by_role("button", name="Keep").click()
        assert card.count() == 1
        card.get_by_role("button", name="Delete street.mp4").click()
        page.get_by_role("button", name="Delete", exact=True).click()
        card.wait_for(state="detached")
    assert all(video["name"] != "street.mp4" for video in httpx2.get(f"{server.url}/api/videos").json()["videos"])


def test_errors_are_shown_where_they_happen(browser, server, tmp_path):
    """A file that is no video, an empty one, a URL that is refused, a video that is not here, a server that is full."""
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    refused = "status of 4(00|04|29)"
    with opened(browser, server.url, may_fail=refused) as page:
        page.get_by_label("Choose videos").set_input_files([tmp_path / "text.mp4", tmp_path / "empty.mp4"])
        rows = page.get_by_label("At work")
        rows.locator(".task", has_text="text.mp4").locator("[role=alert]", has_text="is no video").wait_for()
        rows.locator(".task", has_text="empty.mp4").locator("[role=alert]", has_text="The file is empty.").wait_for()
        for name in ("text.mp4", "empty.mp4"):
            page.get_by_role("button", name=f"Dismiss {name}").click()
        rows.wait_for(state="hidden")
        page.get_by_text("From a URL").click()
        page.get_by_label("URL").fill("https://user@nothing.invalid/a.mp4")
        page.get_by_role("button", name="Add", exact=True).click()
        page.locator(".task [role=alert], details [role=alert]").first.wait_for()
        page.goto(f"{server.url}/#/video/{'0' * 64}")
        page.get_by_text("there is no video").wait_for()
        page.goto(f"{server.url}/#/video/{server.demo_id}")
        full = {"error": {"message": "as much to do as it takes", "type": "rate_limit_error", "code": "queue_full"}}
        page.route("**/v1/chat/completions", lambda route: route.fulfill(status=429, json=full))
        ask(page, "who moves?")
        page.locator(".turn [role=alert]", has_text="as much to do").wait_for()
        page.unroute("**/v1/chat/completions")
        page.get_by_role("button", name="Ask again").click()
        page.locator(".answer", has_text="square").wait_for()


def test_names_and_answers_are_text(browser, server):
    """Markup in a name is shown as it is, and no script of it runs; names are shown in all views."""
    data = server.demo.read_bytes() + b"\0" * 16
    reply = httpx2.post(f"{server.url}/api/uploads", json={"name": BAD_NAME, "size_bytes": len(data)}).json()
    sent = httpx2.patch(f"{server.url}/api/uploads/{reply['upload']}", content=data, headers={"Upload-Offset": "0"})
    server.wait(sent.json()["job"]["id"])
    shown = sent.json()["video"]["name"]
    assert "<b>" in shown
    chunk = '{"choices": [{"index": 0, "delta": {"content": "<script>alert(1)</script><img src=x onerror=alert(2)>"}}]}'
    with opened(browser, server.url) as page:
        page.locator(".card .name", has_text=shown).wait_for()
        page.locator(".card-link", has_text=shown).click()
        page.get_by_role("heading", name=shown).wait_for()
        page.route("**/v1/chat/completions", lambda route: route.fulfill(
            content_type="text/event-stream", body=f"data: {chunk}\n\ndata: [DONE]\n\n"))  # fmt: skip
        ask(page, "<img src=x onerror=alert(3)>")
        assert page.locator(".answer").inner_text() == "<script>alert(1)</script><img src=x onerror=alert(2)>"
        page.get_by_role("searchbox").fill("<b>square</b>")
        page.keyboard.press("Enter")
        page.locator(".card", has_text=shown).first.wait_for()
        assert page.locator("main b, main img[src='x'], main script").count() == 0
    httpx2.delete(f"{server.url}/api/videos/{sent.json()['video']['id']}")


@pytest.mark.parametrize("size", [(360, 640), (1200, 800)])
def test_no_view_scrolls_sideways(browser, server, size):
    long = "a-name-without-any-space-" * 8 + ".mp4"
    data = server.demo.read_bytes() + b"\0" * 24
    reply = httpx2.post(f"{server.url}/api/uploads", json={"name": long, "size_bytes": len(data)}).json()
    sent = httpx2.patch(f"{server.url}/api/uploads/{reply['upload']}", content=data, headers={"Upload-Offset": "0"})
    server.wait(sent.json()["job"]["id"])
    with opened(browser, server.url, viewport={"width": size[0], "height": size[1]}) as page:
        page.locator(".card", has_text="a-name-without").wait_for()
        assert has_no_sideways_scroll(page)
        page.locator(".card-link", has_text="a-name-without").click()
        ask(page, "what-is-this-" * 30)
        assert has_no_sideways_scroll(page)
        page.get_by_role("searchbox").fill("a square")
        page.keyboard.press("Enter")
        page.locator(".card").first.wait_for()
        assert has_no_sideways_scroll(page)
    httpx2.delete(f"{server.url}/api/videos/{sent.json()['video']['id']}")


def test_the_key_is_asked_for_once(browser, tmp_path):
    with serving(tmp_path, api_key=KEY) as server, opened(browser, server.url, may_fail="status of 401") as page:
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Open").click()
        page.get_by_text("This is not the server's key.").wait_for()
        page.keyboard.press("Escape")  # leads nowhere without the key
        page.get_by_label("API key").fill(KEY)
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Add the demo clip").click()
        page.get_by_label("Question about this video").wait_for()
        ask(page, "who is green?")
        assert page.locator(".answer").inner_text() == "circle"
        assert shown_seconds(page) == 0  # the player has the cookie, too
        page.reload()
        page.get_by_label("Question about this video").wait_for()
        assert page.get_by_role("dialog").count() == 0


def recoded(source: Path, out: Path, codec: str, *, start_seconds: float = 0.0, num_times: int = 1) -> Path:
    """The demo clip with another codec or container, beginning at another time, played several times over."""
    with av.open(str(source)) as given, av.open(str(out), "w") as made:
        frames = list(given.decode(video=0)) * num_times
        stream = made.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 10)
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number + round(start_seconds * 10), Fraction(1, 10)
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))
    return out


@pytest.mark.parametrize(
    ("name", "codec", "can_play_copy"),
    [("a.avi", "mpeg4", False), ("a.ts", "libx264", True), ("a.flv", "libx264", True)],
)
def test_what_the_browser_cannot_play_is_shown_as_frames_or_a_copy(
    browser, server, tmp_path, name, codec, can_play_copy
):
    upload = server.upload(recoded(server.demo, tmp_path / name, codec))
    video = upload["video"]["id"]
    first = upload["video"]["video"]["first_pts_seconds"]
    with opened(browser, f"{server.url}/#/video/{video}") as page:
        page.get_by_text("This browser cannot play this file").wait_for()
        wait_until(page, "document.querySelector('.still')?.naturalWidth > 0")
        page.get_by_role("slider").press("End")
        wait_until(page, "document.querySelector('.still').complete")
        page.get_by_role("button", name="10 seconds back").click()
        page.get_by_role("button", name="Try a copy").click()
        if not can_play_copy:
            page.get_by_text("cannot play a copy of it either").wait_for()
            return
        wait_until(page, IS_SHOWN)
        page.goto(f"{server.url}/#/video/{video}?t={first + 3:g}")
        wait_until(page, "Math.abs(document.querySelector('video').currentTime - 3) < 0.11")
    httpx2.delete(f"{server.url}/api/videos/{video}")


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv", "late.webm"])
def test_a_clock_that_does_not_begin_at_zero(browser, server, tmp_path, name):
    """A moment of the cache is the same picture in the player: as the server's own frame of that time."""
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    upload = server.upload(recoded(server.demo, tmp_path / name, codec, start_seconds=5.0))
    video, facts = upload["video"]["id"], upload["video"]["video"]
    at = facts["first_pts_seconds"] + 1.5
    with opened(browser, f"{server.url}/#/video/{video}?t={at:g}") as page:
        shown_seconds(page)
        page.evaluate(
            """(address) => new Promise((resolve) => {
              const image = new Image();
              image.onload = () => {
                const pixels = (source) => {
                  const canvas = Object.assign(document.createElement('canvas'), {width: 60, height: 60});
                  const pen = canvas.getContext('2d');
                  pen.drawImage(source, 0, 0, 60, 60);
                  return pen.getImageData(0, 0, 60, 60).data;
                };
                const [a, b] = [pixels(image), pixels(document.querySelector('video'))];
                window.difference = a.reduce((sum, value, place) => sum + Math.abs(value - b[place]), 0) / a.length;
                resolve();
              };
              image.src = address;
            })""",
            f"/api/videos/{video}/thumbnail?t={at}&width=240",
        )
        assert page.evaluate("window.difference") < 4
        assert float(page.get_by_role("slider").get_attribute("aria-valuenow")) == pytest.approx(at, abs=0.11)
    httpx2.delete(f"{server.url}/api/videos/{video}")


def test_a_broken_upload_goes_on(browser, server):
    """The connection breaks in the middle: the page asks how much has come, and sends the rest."""
    tries = []

    def break_first(route):
        tries.append(route.request.headers["upload-offset"])
        if len(tries) == 1:
            route.abort("connectionreset")
        else:
            route.continue_()

    with opened(browser, server.url, may_fail="ERR_CONNECTION_RESET") as page:
        page.route(
            "**/api/uploads/*",
            lambda route: break_first(route) if route.request.method == "PATCH" else route.continue_(),
        )
        data = server.demo.read_bytes() + b"\0" * 32
        page.get_by_label("Choose videos").set_input_files(
            {"name": "again.mp4", "mimeType": "video/mp4", "buffer": data}
        )
        page.locator(".card", has_text="again.mp4").wait_for()
    assert tries == ["0", "0"]


def test_pictures_of_the_page_are_made(browser, tmp_path):
    """As scripts/page_screenshots.py makes those of docs/images: three, of different colours."""
    with serving(tmp_path) as server:
        paths = take_pictures(browser, server.url, tmp_path)
    assert [path.name for path in paths] == ["page-light.png", "page-dark.png", "page-phone.png"]
    from PIL import Image

    corners = [Image.open(path).convert("RGB").getpixel((2, 2)) for path in paths]
    assert min(corners[0]) > 200 > 80 > max(corners[1])


def test_a_live_source_is_followed_and_asked_while_it_grows(browser, server, tmp_path):
    """It is a video of the library at once; a standing question is answered, and its time leads there."""
    root = server.server.config.app.state.service.settings.media_root
    recoded(server.demo, root / "door.ts", "libx264", num_times=4)
    with opened(browser, server.url) as page:
        page.get_by_text("Follow a live source").click()
        page.get_by_label("Source", exact=True).fill("door.ts")
        page.get_by_label("Name", exact=True).fill("front-door")
        page.get_by_label("Ask of each 10 s").fill("who moves?")
        page.get_by_role("button", name="Follow", exact=True).click()
        row = page.get_by_label("Live sources").locator(".task", has_text="front-door")
        row.locator(".answers li").first.wait_for()
        page.locator(".card", has_text="front-door").locator(".badge.live").wait_for()
        row.get_by_role("link", name="front-door").click()
        page.get_by_text("A live source: only its compressed frames are kept").wait_for()
        ask(page, "where is the star?")
        page.locator(".evidence a").first.click()
        assert float(page.get_by_role("slider").get_attribute("aria-valuenow")) >= 0
        page.get_by_role("link", name="← Library").click()
        page.get_by_role("button", name="Stop following front-door").click()
        row.get_by_text("stopped").wait_for()
