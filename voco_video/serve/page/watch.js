// The second view: one video with its player, its timeline and questions about it.

import { ask } from "./api.js";
import { Chat } from "./chat.js";
import { count, el, fill, isTyping, problem } from "./dom.js";
import { Player } from "./player.js";
import { taskList } from "./task_list.js";
import { compress, followRunning, onTask } from "./tasks.js";
import { Timeline } from "./timeline.js";

const LIVE_MS = 3000;

/** Show a video in an element, from a moment; returns {stop, goTo}. */
export function showVideo(main, id, { seconds, play }, about) {
  const ends = new AbortController();
  const view = { stop: () => ends.abort(), goTo: null };
  fill(main, el("p", { class: "quiet" }, "Loading …"));
  factsOf(id).then(
    (facts) => ends.signal.aborted || open(main, facts, { seconds, play }, about, ends, view),
    (error) => ends.signal.aborted || fill(main, el("h1", {}, "No video"), problem(error), back()),
  );
  return view;
}

function factsOf(id) {
  return ask(`/api/videos/${encodeURIComponent(id)}`);
}

function back() {
  return el("p", {}, el("a", { href: "#/" }, "← Library"));
}

function open(main, facts, { seconds, play }, about, ends, view) {
  document.title = `${facts.name} – voco-video`;
  let range = rangeOf(facts);
  const player = new Player(facts, range);
  const timeline = new Timeline(facts, range);
  const chat = new Chat(facts, range, about);
  const line = el("p", { class: "quiet facts" }, factsLine(facts));
  const state = el("div");
  const tasks = taskList();
  const jump = (to, options) => player.seek(to, options);

  player.addEventListener("time", () => timeline.setTime(player.seconds));
  timeline.addEventListener("pick", (event) => jump(event.detail));
  chat.addEventListener("jump", (event) => jump(event.detail));
  chat.addEventListener("look", (event) => timeline.show(event.detail.frames ?? [], event.detail.evidence));
  // A question about what is not compressed yet waits for that, which is a job with progress.
  chat.addEventListener("asked", () => {
    if (!["ready", "live"].includes(facts.state)) setTimeout(() => followRunning().catch(() => {}), 700);
  });
  if (chat.latest) timeline.show(chat.latest.frames ?? [], chat.latest.evidence);
  document.addEventListener("keydown", (event) => shortcut(event, player, timeline, chat), { signal: ends.signal });

  async function refresh() {
    let now;
    try {
      now = await factsOf(facts.id);
    } catch (error) {
      fill(state, problem(error, el("button", { class: "small", click: refresh }, "Try again")));
      return;
    }
    if (ends.signal.aborted) return;
    range = rangeOf(now);
    timeline.setRange(range);
    chat.setRange(range);
    player.setRange(range);
    fill(line, factsLine(now));
    fill(state, stateOf(now, () => refresh()));
    if (now.state === "live") timer = setTimeout(refresh, LIVE_MS);
  }

  let timer = facts.state === "live" ? setTimeout(refresh, LIVE_MS) : 0;
  const stopListening = onTask((task) => task.video === facts.id && task.state !== "running" && refresh());
  ends.signal.addEventListener("abort", () => {
    clearTimeout(timer);
    stopListening();
    tasks.stop();
    player.stop();
    timeline.stop();
    chat.stop();
  });

  fill(state, stateOf(facts, () => refresh()));
  fill(
    main,
    el(
      "div",
      { class: "watch" },
      el(
        "div",
        { class: "stage" },
        el("p", { class: "trail" }, el("a", { href: "#/" }, "← Library")),
        player.element,
        timeline.element,
        el("h1", { dir: "auto" }, facts.name || "a video without a name"),
        line,
        state,
        facts.foreign_note && el("p", { class: "note" }, facts.foreign_note),
        tasks.element,
      ),
      chat.element,
    ),
  );
  if (seconds !== null) jump(seconds, { play });
  view.goTo = jump;
  if (matchMedia("(min-width: 900px) and (hover: hover)").matches) chat.focus();
}

/** From when to when a video reaches, in seconds of its own clock. */
function rangeOf(facts) {
  const from = Math.min(...[facts.video.first_pts_seconds, facts.start_seconds].filter(Number.isFinite));
  const to = Math.max(...[facts.video.end_seconds, facts.end_seconds].filter(Number.isFinite));
  const start = Number.isFinite(from) ? from : 0;
  return { from: start, to: Number.isFinite(to) && to > start ? to : start + 1 };
}

function factsLine(facts) {
  const { width, height, codec } = facts.video;
  return [
    width && `${width}×${height}`,
    codec,
    facts.num_frames !== undefined &&
      `${count(facts.num_frames, "frame")} compressed to ${count(facts.num_voco_tokens, "token")} each (${facts.compressor})`,
  ]
    .filter(Boolean)
    .join(" · ");
}

function stateOf(facts, refresh) {
  if (facts.state === "live") return el("p", { class: "badge live" }, "live: it grows, and answers know what has come");
  if (facts.job || facts.state === "ready") return null;
  const wrong = el("div");
  const begin = async (event) => {
    const button = event.currentTarget;
    button.disabled = true;
    try {
      await compress(facts);
      refresh();
    } catch (error) {
      button.disabled = false;
      fill(wrong, problem(error));
    }
  };
  const said = facts.state === "unfinished" ? "It was not compressed to its end. " : "It is not compressed yet; the first question does that. ";
  return el("div", {}, el("p", { class: "quiet" }, said, el("button", { class: "small", click: begin }, "Compress it now")), wrong);
}

function shortcut(event, player, timeline, chat) {
  if (event.ctrlKey || event.altKey || event.metaKey || isTyping(event.target)) return;
  const go = (to) => to !== null && player.seek(to);
  const actions = {
    " ": () => player.toggle(),
    k: () => player.toggle(),
    ArrowLeft: () => go(player.seconds - 1),
    ArrowRight: () => go(player.seconds + 1),
    n: () => go(timeline.neighbour(player.seconds, 1)),
    p: () => go(timeline.neighbour(player.seconds, -1)),
    a: () => chat.focus(),
  };
  if (!(event.key in actions)) return;
  event.preventDefault();
  actions[event.key]();
}
