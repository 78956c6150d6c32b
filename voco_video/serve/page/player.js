// The player: the file as it is; where the browser cannot play it, a copy in another container, or single frames.

import { errorFrom, send, thumbnail } from "./api.js";
import { el, fill, problem } from "./dom.js";
import { clock } from "./times.js";

const MAX_COPY_SECONDS = 3600; // what the server copies at once
const STILL_WIDTH = 960;

/** Plays one video. Times are seconds of the video's own clock, also where a copy begins later. */
export class Player extends EventTarget {
  #facts;
  #range;
  #video = null;
  #image = null;
  #offset = 0; // of the player's clock
  #seconds;
  #copy = null; // the address of a copy in memory

  /** Facts are those of /api/videos/ID; range is {from, to} in seconds. */
  constructor(facts, range) {
    super();
    this.#facts = facts;
    this.#range = range;
    this.#seconds = range.from;
    this.element = el("div", { class: "player" });
    if (facts.has_media) this.#showVideo(`/api/videos/${encodeURIComponent(facts.id)}/media`, 0, () => this.#cannotPlay());
    else this.#showNothing();
  }

  /** The time that is shown. */
  get seconds() {
    return this.#seconds;
  }

  /** Show another moment; play from it where that is wanted and possible. */
  seek(seconds, { play = false } = {}) {
    this.#seconds = Math.min(Math.max(seconds, this.#range.from), this.#range.to);
    if (this.#video) {
      this.#video.currentTime = Math.max(0, this.#seconds - this.#offset);
      if (play) this.#video.play().catch(() => {}); // a browser may want a click first; the moment is shown all the same
    } else if (this.#image) this.#showFrame();
    this.#tell();
  }

  /** Play or pause. */
  toggle() {
    if (!this.#video) return;
    if (this.#video.paused) this.#video.play().catch(() => {});
    else this.#video.pause();
  }

  /** Tell how far the video reaches now. */
  setRange(range) {
    this.#range = range;
  }

  /** Let go of the file. */
  stop() {
    this.#video?.pause();
    this.#video?.removeAttribute("src");
    if (this.#copy) URL.revokeObjectURL(this.#copy);
  }

  #tell() {
    this.dispatchEvent(new Event("time"));
  }

  #showVideo(address, offset, onFailure) {
    const video = el("video", { controls: true, preload: "metadata", playsinline: true, "aria-label": `Player of ${this.#facts.name}` });
    let hasFailed = false;
    const fail = () => {
      if (hasFailed || video !== this.#video) return;
      hasFailed = true;
      this.#video = null;
      onFailure();
    };
    video.addEventListener("error", fail);
    // Where the browser knows the sound but not the picture, it plays the sound alone.
    video.addEventListener("loadedmetadata", () => {
      if (video.videoWidth === 0) fail();
      else if (this.#seconds > offset) video.currentTime = this.#seconds - offset;
    });
    for (const kind of ["timeupdate", "seeking"])
      video.addEventListener(kind, () => {
        if (video !== this.#video || video.readyState === 0) return;
        this.#seconds = video.currentTime + offset;
        this.#tell();
      });
    this.#video = video;
    this.#image = null;
    this.#offset = offset;
    video.src = address;
    fill(this.element, video);
  }

  #showNothing() {
    const live = this.#facts.state === "live";
    const why = live
      ? "A live source: only its compressed frames are kept, so there is nothing to play. They answer all the same."
      : "The file of this video is not on this server. Its compressed frames answer all the same.";
    fill(this.element, el("p", { class: "no-player quiet" }, why));
  }

  #cannotPlay() {
    const { codec, container } = this.#facts.video;
    const what = [codec, container?.split(",")[0]].filter(Boolean).join(" in ");
    this.#showStills(
      `This browser cannot play this file${what ? ` (${what})` : ""}. Here are its frames, one at a time.`,
      el("button", { class: "small", click: (event) => this.#playCopy(event.currentTarget) }, "Try a copy in another container"),
    );
  }

  async #playCopy(button) {
    button.disabled = true;
    button.textContent = "Copying …";
    const { from, to } = this.#range;
    const isWhole = to - from <= MAX_COPY_SECONDS;
    const start = isWhole ? from : Math.max(from, this.#seconds - 60);
    const end = isWhole ? to + 1 : Math.min(to + 1, start + MAX_COPY_SECONDS);
    try {
      const place = `/api/videos/${encodeURIComponent(this.#facts.id)}/clip?start=${start}&end=${end}`;
      const reply = await send(place);
      const begins = Number(reply.headers.get("X-Clip-Start-Seconds"));
      this.#copy = URL.createObjectURL(await reply.blob());
      this.#showVideo(this.#copy, begins, () =>
        this.#showStills("This browser cannot play a copy of it either: it does not know how its pictures are coded."),
      );
      if (!isWhole) this.element.append(el("p", { class: "quiet" }, `The copy runs from ${clock(begins)} to ${clock(end)}.`));
    } catch (error) {
      this.#showStills(`No copy can be made. ${error.message}`);
    }
  }

  #showStills(said, ...actions) {
    this.#video = null;
    this.#image = el("img", { class: "still", width: this.#facts.video.width, height: this.#facts.video.height });
    const step = (seconds) => el(
      "button",
      { class: "small", "aria-label": `${Math.abs(seconds)} seconds ${seconds < 0 ? "back" : "on"}`, click: () => this.seek(this.#seconds + seconds) },
      seconds < 0 ? `${-seconds} s back` : `${seconds} s on`,
    );
    const failed = el("div");
    this.#image.addEventListener("error", async () => fill(failed, problem(await this.#whyNoFrame())));
    this.#image.addEventListener("load", () => fill(failed));
    fill(
      this.element,
      this.#image,
      failed,
      el("p", { class: "player-note", role: "status" }, said),
      el("p", { class: "actions" }, [-10, -1, 1, 10].map(step), actions),
    );
    this.#showFrame();
    this.#tell();
  }

  #showFrame() {
    this.#image.src = thumbnail(this.#facts.id, this.#seconds, STILL_WIDTH);
    this.#image.alt = `The frame at ${clock(this.#seconds)}`;
  }

  async #whyNoFrame() {
    try {
      const reply = await fetch(this.#image.src);
      return reply.ok ? "This frame cannot be shown." : errorFrom(reply.status, await reply.text());
    } catch (error) {
      return error;
    }
  }
}
