// The timeline under the player: one bar for each frame, as high as its share of the answer's attention.

import { thumbnail } from "./api.js";
import { el, fill } from "./dom.js";
import { clock, spoken } from "./times.js";

const PREVIEW_MS = 120;
const KEYS = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 };

/** A slider over the video's time; the event "pick" has the seconds that were picked in its detail. */
export class Timeline extends EventTarget {
  #facts;
  #range;
  #frames = [];
  #moments = [];
  #canvas = el("canvas", { "aria-hidden": "true" });
  #bands = el("div", { class: "bands", "aria-hidden": "true" });
  #head = el("div", { class: "playhead", "aria-hidden": "true" });
  #tip = el("div", { class: "tip", "aria-hidden": "true", hidden: true });
  #caption = el("p", { class: "quiet timeline-caption" });
  #seconds;
  #timer = 0;
  #redraw = () => this.#draw();
  #sizes = new ResizeObserver(this.#redraw);
  #colours = matchMedia("(prefers-color-scheme: dark)");

  constructor(facts, range) {
    super();
    this.#facts = facts;
    this.#seconds = range.from;
    this.bar = el(
      "div",
      { class: "timeline", role: "slider", tabindex: 0, "aria-label": "Time in the video", "aria-describedby": "timeline-caption" },
      this.#bands, this.#canvas, this.#head, this.#tip,
    );
    this.#caption.id = "timeline-caption";
    this.element = el("div", {}, this.bar, this.#caption);
    this.bar.addEventListener("pointerdown", (event) => this.#drag(event));
    this.bar.addEventListener("pointermove", (event) => this.#hover(event));
    this.bar.addEventListener("pointerleave", () => this.#hideTip());
    this.bar.addEventListener("keydown", (event) => this.#key(event));
    this.#sizes.observe(this.bar);
    this.#colours.addEventListener("change", this.#redraw);
    this.setRange(range);
    this.show([], []);
  }

  /** Show other ends, such as of a live source that has grown. */
  setRange(range) {
    this.#range = range;
    this.bar.setAttribute("aria-valuemin", range.from);
    this.bar.setAttribute("aria-valuemax", range.to);
    this.setTime(this.#seconds);
    this.show(this.#frames, this.#moments);
  }

  /** Mark the time that the player shows. */
  setTime(seconds) {
    this.#seconds = seconds;
    this.#head.style.left = `${this.#place(seconds) * 100}%`;
    this.bar.setAttribute("aria-valuenow", seconds.toFixed(2));
    this.bar.setAttribute("aria-valuetext", this.#said(seconds));
  }

  /** Show where an answer looked: frames [{pts_seconds, attention}] and moments [{start_seconds, end_seconds}]. */
  show(frames, moments) {
    this.#frames = frames;
    this.#moments = moments;
    fill(this.#bands, moments.map((moment) => this.#band(moment)));
    if (frames.length === 0 && moments.length === 0) this.#caption.textContent = "Ask a question to see here where the answer looked.";
    else if (frames.length === 0) this.#caption.textContent = "Coloured: the moments that the answer rests on.";
    else {
      const most = frames.reduce((best, frame) => (frame.attention > best.attention ? frame : best));
      this.#caption.textContent =
        `Each bar is a frame, as high as its share of the answer's attention: most at ${clock(most.pts_seconds)} (${percent(most.attention)}).`;
    }
    this.setTime(this.#seconds);
    this.#draw();
  }

  /** The beginning of the next (or the last) moment where the answer looked, seen from a time; null where there is none. */
  neighbour(seconds, direction) {
    const starts = this.#moments.map((moment) => moment.start_seconds).sort((a, b) => a - b);
    if (direction > 0) return starts.find((start) => start > seconds + 0.05) ?? null;
    return starts.reverse().find((start) => start < seconds - 0.05) ?? null;
  }

  /** Listen to nothing any more. */
  stop() {
    clearTimeout(this.#timer);
    this.#sizes.disconnect();
    this.#colours.removeEventListener("change", this.#redraw);
  }

  #band(moment) {
    const band = el("div", { class: "band" });
    const from = this.#place(moment.start_seconds);
    band.style.left = `${from * 100}%`;
    band.style.width = `${Math.max(0.004, this.#place(moment.end_seconds) - from) * 100}%`;
    return band;
  }

  #place(seconds) {
    const { from, to } = this.#range;
    return Math.min(1, Math.max(0, (seconds - from) / (to - from)));
  }

  #secondsAt(event) {
    const box = this.bar.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    return this.#range.from + share * (this.#range.to - this.#range.from);
  }

  /** The frame that stands for a time: the last one at or before it. */
  #frameAt(seconds) {
    return this.#frames.findLast((frame) => frame.pts_seconds <= seconds + 1e-6) ?? this.#frames[0];
  }

  #said(seconds) {
    const frame = this.#frameAt(seconds);
    return `${spoken(seconds)}${frame ? `, ${percent(frame.attention)} of the attention` : ""}`;
  }

  #pick(seconds) {
    const inside = Math.min(this.#range.to, Math.max(this.#range.from, seconds));
    this.dispatchEvent(new CustomEvent("pick", { detail: inside }));
  }

  #drag(event) {
    if (event.button !== 0) return;
    this.bar.setPointerCapture(event.pointerId);
    const move = (moved) => this.#pick(this.#secondsAt(moved));
    const ends = new AbortController();
    move(event);
    this.bar.addEventListener("pointermove", move, { signal: ends.signal });
    for (const kind of ["pointerup", "pointercancel"]) this.bar.addEventListener(kind, () => ends.abort(), { signal: ends.signal });
  }

  #key(event) {
    let wanted = null;
    if (event.key in KEYS) wanted = this.#seconds + KEYS[event.key];
    else if (event.key === "Home") wanted = this.#range.from;
    else if (event.key === "End") wanted = this.#range.to;
    if (wanted === null || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    this.#pick(wanted);
  }

  #hover(event) {
    const seconds = this.#secondsAt(event);
    const frame = this.#frameAt(seconds);
    const text = el("span", {}, `${clock(seconds)}${frame ? ` · ${percent(frame.attention)}` : ""}`);
    const kept = this.#tip.querySelector("img");
    fill(this.#tip, kept, text);
    this.#tip.hidden = false;
    const box = this.bar.getBoundingClientRect();
    const half = this.#tip.offsetWidth / 2;
    this.#tip.style.left = `${Math.min(Math.max(event.clientX - box.left, half), Math.max(half, box.width - half))}px`;
    if (!this.#facts.has_media || event.pointerType === "touch") return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      const image = el("img", { alt: "", src: thumbnail(this.#facts.id, Math.round(seconds * 2) / 2, 160) });
      image.addEventListener("load", () => !this.#tip.hidden && fill(this.#tip, image, this.#tip.lastChild));
    }, PREVIEW_MS);
  }

  #hideTip() {
    clearTimeout(this.#timer);
    this.#tip.hidden = true;
    fill(this.#tip);
  }

  #draw() {
    const { clientWidth: width, clientHeight: height } = this.bar;
    if (width === 0) return;
    const scale = devicePixelRatio || 1;
    this.#canvas.width = width * scale;
    this.#canvas.height = height * scale;
    const pen = this.#canvas.getContext("2d");
    pen.scale(scale, scale);
    const frames = this.#frames;
    const most = frames.reduce((best, frame) => Math.max(best, frame.attention), 1e-9);
    pen.fillStyle = getComputedStyle(this.bar).getPropertyValue("--bar").trim();
    frames.forEach((frame, place) => {
      const left = this.#place(frame.pts_seconds) * width;
      const next = frames[place + 1]?.pts_seconds ?? this.#range.to;
      const right = Math.max(left + 1, this.#place(next) * width - 1);
      const tall = Math.max(2, (frame.attention / most) * (height - 6));
      pen.fillRect(left, height - tall, right - left, tall);
    });
  }
}

function percent(share) {
  return share < 0.01 && share > 0 ? `${(share * 100).toFixed(1)} %` : `${Math.round(share * 100)} %`;
}
