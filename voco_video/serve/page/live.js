// Live sources: follow one, with questions that are asked again and again, and what they answered.

import { ask } from "./api.js";
import { count, el, fill, problem } from "./dom.js";
import { clock, momentLink } from "./times.js";

const REFRESH_MS = 3000;
const NUM_SOURCES = 8; // that are shown, the latest
const NUM_ANSWERS = 5; // that are shown of each source

/** Make the part of the library that follows live sources; returns {element, stop}. onChange is told of new videos. */
export function liveSources(about, onChange) {
  const list = el("div");
  const wrong = el("div");
  let known = "";
  let isShown = true;
  let timer = 0;

  async function refresh() {
    clearTimeout(timer);
    try {
      const { follows } = await ask("/api/follow");
      const full = await Promise.all(follows.slice(0, NUM_SOURCES).map((one) => ask(`/api/follow/${encodeURIComponent(one.id)}`)));
      if (!isShown) return;
      fill(wrong);
      const now = JSON.stringify(full.map((one) => [one.id, one.state, one.num_published_frames > 0]));
      if (known && now !== known) onChange();
      known = now;
      render(full);
      if (full.some((one) => one.state === "running")) timer = setTimeout(refresh, REFRESH_MS);
    } catch (error) {
      fill(wrong, problem(error, el("button", { class: "small", click: refresh }, "Try again")));
    }
  }

  function render(follows) {
    const active = document.activeElement?.id; // a list that is made anew must not take the focus away
    fill(list, follows.map((one) => row(one, refresh)));
    if (active) document.getElementById(active)?.focus();
  }

  refresh();
  return {
    element: el("section", { "aria-label": "Live sources" }, form(about, refresh, onChange), wrong, list),
    stop: () => {
      isShown = false;
      clearTimeout(timer);
    },
  };
}

function form(about, refresh, onChange) {
  const source = el("input", { id: "live-source", required: true, maxlength: 4096, list: "live-known", placeholder: placeholder(about) });
  const name = el("input", { id: "live-name", required: true, maxlength: 100, placeholder: "front door" });
  const question = el("input", { id: "live-question", maxlength: 2000, placeholder: "Is somebody at the door?" });
  const wrong = el("div");
  const give = async (event) => {
    event.preventDefault();
    fill(wrong);
    const asked = question.value.trim();
    const json = { source: source.value.trim(), name: name.value.trim(), questions: asked ? [asked] : [] };
    try {
      await ask("/api/follow", { method: "POST", json });
      event.target.reset();
      refresh();
      onChange();
    } catch (error) {
      fill(wrong, problem(error));
    }
  };
  return el(
    "details",
    {},
    el("summary", {}, "Follow a live source"),
    el(
      "form",
      { class: "live-form", submit: give },
      el("label", { for: "live-source" }, "Source"), source,
      el("datalist", { id: "live-known" }, about.live_sources.map((one) => el("option", { value: one }))),
      el("label", { for: "live-name" }, "Name"), name,
      el("label", { for: "live-question" }, "Ask of each 10 s (optional)"), question,
      el("p", { class: "actions" }, el("button", {}, "Follow")),
    ),
    wrong,
  );
}

function placeholder(about) {
  if (about.live_sources.length) return about.live_sources[0];
  if (about.has_media_root) return "a file of the server's folder that grows";
  return about.takes_urls ? "https://…" : "none is allowed here: see --live";
}

function row(follow, refresh) {
  const wrong = el("div");
  const stop = el("button", { class: "small", id: `stop-${follow.id}`, "aria-label": `Stop following ${follow.name}` }, "Stop");
  stop.addEventListener("click", async () => {
    stop.disabled = true;
    try {
      await ask(`/api/follow/${encodeURIComponent(follow.id)}`, { method: "DELETE" });
      refresh();
    } catch (error) {
      stop.disabled = false;
      fill(wrong, problem(error));
    }
  });
  const isRunning = follow.state === "running";
  const answers = follow.events.filter((event) => event.kind === "answer").slice(-NUM_ANSWERS).reverse();
  return el(
    "article",
    { class: "task" },
    el(
      "div",
      { class: "task-head" },
      el("a", { class: "name", href: `#/video/${encodeURIComponent(follow.video)}` }, el("bdi", {}, follow.name)),
      el("span", { class: isRunning ? "badge live" : "badge" }, isRunning ? "live" : follow.state),
      el("span", { class: "quiet" }, count(follow.num_published_frames, "frame")),
      isRunning && stop,
    ),
    follow.error && problem(follow.error.message),
    wrong,
    answers.length > 0 && el("ul", { class: "answers" }, answers.map((event) => answer(event, follow))),
  );
}

function answer(event, follow) {
  const times = `${clock(event.start_seconds)}–${clock(event.end_seconds)}`;
  return el(
    "li",
    {},
    el("a", { href: momentLink(follow.video, event.start_seconds) }, times),
    " ",
    el("span", { class: "quiet", dir: "auto" }, event.question),
    " ",
    el("span", { dir: "auto" }, event.answer),
    event.is_foreign && el("span", { class: "quiet" }, " (of nothing that the model was trained on)"),
  );
}
