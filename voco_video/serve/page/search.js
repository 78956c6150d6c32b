// The third view: moments of all videos that fit a search, with pictures that play from there.

import { ask, thumbnail } from "./api.js";
import { announce, count, el, fill, problem } from "./dom.js";
import { picture } from "./library.js";
import { clock, momentLink } from "./times.js";

const NUM_MOMENTS = 24;

/** Search and show what is found; returns what stops it. */
export function showSearch(main, query) {
  const ends = new AbortController();
  const results = el("div", { "aria-busy": "true" }, el("p", { class: "quiet" }, "Searching …"));
  fill(
    main,
    el("p", { class: "trail" }, el("a", { href: "#/" }, "← Library")),
    el("h1", {}, "Moments: ", el("q", { dir: "auto" }, query)),
    results,
  );
  search();

  async function search() {
    try {
      const json = { query, num_moments: NUM_MOMENTS };
      const found = await ask("/api/find", { method: "POST", json, signal: ends.signal });
      fill(results, shown(found));
      announce(`${count(found.moments.length, "moment")} found`);
    } catch (error) {
      if (error.name === "AbortError") return;
      fill(results, problem(error, " ", el("button", { class: "small", click: search }, "Try again")));
    } finally {
      results.removeAttribute("aria-busy");
    }
  }

  return () => ends.abort();
}

function shown(found) {
  const likely = found.moments.filter((moment) => isLikely(moment));
  const others = found.moments.filter((moment) => !isLikely(moment));
  const nothing =
    found.num_videos === 0
      ? "No video is compressed yet, so there is nothing to search."
      : `Nothing fits in ${count(found.num_videos, "video")}.`;
  return [
    found.moments.length === 0 && el("p", { class: "quiet" }, nothing),
    likely.length > 0 && el("p", { class: "quiet" }, `Best first, of ${count(found.num_videos, "video")}.`),
    el("div", { class: "cards" }, likely.map(card)),
    others.length > 0 && likely.length === 0 && el("p", { class: "note" }, "Nothing is likely to fit. These come nearest:"),
    others.length > 0 && likely.length > 0 && el("h2", {}, "Less likely"),
    el("div", { class: "cards less" }, others.map(card)),
    found.failed.length > 0 &&
      el(
        "details",
        { class: "failed" },
        el("summary", {}, `${count(found.failed.length, "video")} could not be searched`),
        el("ul", {}, found.failed.map((one) => el("li", {}, one.error))),
      ),
  ];
}

/** What the model calls unlikely, or cannot judge since the video is nothing that it knows, comes last. */
function isLikely(moment) {
  return moment.is_likely !== false && !moment.is_foreign;
}

function card(moment) {
  const times = `${clock(moment.start_seconds)}–${clock(moment.end_seconds)}`;
  return el(
    "article",
    { class: "card" },
    el(
      "a",
      {
        href: momentLink(moment.video, moment.start_seconds, { play: true }),
        class: "card-link",
        "aria-label": `Play ${moment.name} from ${clock(moment.start_seconds)}`,
      },
      picture(thumbnail(moment.video, moment.peak_seconds)),
      el("span", { class: "badge time" }, times),
      el("bdi", { class: "name" }, moment.name),
    ),
    moment.is_foreign && el("p", { class: "quiet card-foot" }, "nothing that the model was trained on"),
  );
}
