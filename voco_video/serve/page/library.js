// The first view: add videos, what is at work, and the videos that are here.

import { addVideos } from "./add.js";
import { ask, thumbnail } from "./api.js";
import { count, el, fill, problem } from "./dom.js";
import { liveSources } from "./live.js";
import { taskList } from "./task_list.js";
import { compress, onTask } from "./tasks.js";
import { clock } from "./times.js";

const PAGE_SIZE = 60;
const REFRESH_MS = 4000;
const STATES = {
  uploaded: "not compressed yet",
  unfinished: "not compressed to its end",
  live: "live, growing",
};

/** Show the library in an element; returns what stops it. */
export function showLibrary(main, about) {
  const tasks = taskList();
  const live = about.can_follow ? liveSources(about, () => load()) : null;
  const heading = el("h2", { id: "library-title" }, "Library");
  const list = el("div", { class: "cards" });
  const more = el("button", { hidden: true, click: () => load(shown + PAGE_SIZE) }, "Show more");
  const wrong = el("div");
  let shown = PAGE_SIZE;
  let known = "";
  let isShown = true;
  let timer = 0;

  async function load(wanted = shown) {
    clearTimeout(timer);
    shown = wanted;
    try {
      const videos = [];
      let total = 0;
      do {
        const reply = await ask(`/api/videos?limit=${Math.min(1000, shown - videos.length)}&offset=${videos.length}`);
        total = reply.total;
        videos.push(...reply.videos);
        if (reply.videos.length === 0) break;
      } while (videos.length < Math.min(shown, total));
      if (!isShown) return;
      fill(wrong);
      render(videos, total);
      // What grows by itself is looked at again; all else tells when it changes.
      if (videos.some((video) => video.state === "live" || video.job)) timer = setTimeout(load, REFRESH_MS);
    } catch (error) {
      fill(wrong, problem(error, el("button", { class: "small", click: () => load() }, "Try again")));
    }
  }

  function render(videos, total) {
    const now = JSON.stringify([total, videos.map((video) => [video.id, video.name, video.state, video.entry])]);
    if (now === known) return; // pictures and focus stay as they are
    known = now;
    heading.textContent = total ? `Library: ${count(total, "video")}` : "Library";
    more.hidden = videos.length >= total;
    if (total === 0) fill(list, el("p", { class: "quiet" }, "No videos yet. Add one above, then ask about it."));
    else fill(list, videos.map((video) => card(video, () => load())));
  }

  const stopListening = onTask((task) => {
    if (task.state !== "running" && task.state !== "waiting") load();
    if (task.state === "done" && task.video && isShown && known.startsWith("[0,")) {
      location.hash = `#/video/${encodeURIComponent(task.video)}`; // the first video: what one wants is to ask
    }
  });
  fill(
    main,
    el("h1", { class: "unseen" }, "Videos"),
    about.note && el("p", { class: "note" }, about.note),
    addVideos(about),
    tasks.element,
    live?.element,
    el("section", { "aria-labelledby": "library-title" }, heading, wrong, list, more),
  );
  load();
  return () => {
    isShown = false;
    clearTimeout(timer);
    tasks.stop();
    live?.stop();
    stopListening();
  };
}

function card(video, reload) {
  const facts = video.video;
  const wrong = el("div");
  const attempt = (work) => async (event) => {
    const button = event.currentTarget;
    button.disabled = true;
    fill(wrong);
    try {
      await work();
      reload();
    } catch (error) {
      button.disabled = false;
      fill(wrong, problem(error));
    }
  };
  const about = [
    facts.duration_seconds !== undefined && clock(facts.duration_seconds),
    facts.width !== undefined && `${facts.width}×${facts.height}`,
  ].filter(Boolean);
  const needsCompressing = (video.state === "uploaded" || video.state === "unfinished") && !video.job;
  return el(
    "article",
    { class: "card" },
    el(
      "a",
      { href: `#/video/${encodeURIComponent(video.id)}`, class: "card-link" },
      facts.duration_seconds === undefined // a live source, of which there is no file
        ? noPicture()
        : picture(thumbnail(video.id, (facts.first_pts_seconds ?? 0) + facts.duration_seconds / 3)),
      el("bdi", { class: "name" }, video.name || "a video without a name"),
    ),
    el(
      "p",
      { class: "quiet card-foot" },
      el("span", {}, about.join(" · ")),
      STATES[video.state] && el("span", { class: `badge ${video.state}` }, STATES[video.state]),
      needsCompressing && el("button", { class: "small", click: attempt(() => compress(video)) }, "Compress"),
      el("button", { class: "small quiet-button", "aria-label": `Delete ${video.name}`, click: () => remove(video, attempt) }, "Delete"),
    ),
    wrong,
  );
}

/** A picture of a frame; an empty box where there is none, as of a live source. */
export function picture(address) {
  const image = el("img", { src: address, alt: "", loading: "lazy", width: 320, height: 180 });
  const box = el("span", { class: "picture" }, image);
  image.addEventListener("error", () => box.replaceWith(noPicture()));
  return box;
}

function noPicture() {
  return el("span", { class: "picture" }, el("span", { class: "quiet" }, "no picture"));
}

function remove(video, attempt) {
  const close = () => {
    dialog.close();
    dialog.remove();
  };
  const really = attempt(async () => {
    await ask(`/api/videos/${encodeURIComponent(video.id)}`, { method: "DELETE" });
  });
  const dialog = el(
    "dialog",
    { "aria-labelledby": "delete-title", close: () => dialog.remove() },
    el("h2", { id: "delete-title" }, "Delete ", el("bdi", {}, video.name), "?"),
    el("p", {}, "Its upload and its compressed frames are deleted. A file in the server's folder stays."),
    el(
      "p",
      { class: "actions" },
      el("button", { click: close }, "Keep"),
      el("button", { class: "danger", click: (event) => really(event).then(close) }, "Delete"),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
}
