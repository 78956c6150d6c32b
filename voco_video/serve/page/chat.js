// Questions about a video and their answers, as they come. Times in answers and evidence are links that jump.

import { ApiError, eventsOf, send } from "./api.js";
import { el, fill, problem } from "./dom.js";
import { clock, momentLink, momentsIn } from "./times.js";

const MAX_HISTORY = 20; // turns that are sent along
const kept = new Map(); // what was said about each video, as long as the page is open

/** The conversation about one video. The events "look" (an answer's facts) and "jump" (seconds) are for the player. */
export class Chat extends EventTarget {
  #facts;
  #about;
  #range;
  #turns;
  #stopper = null;
  #log = el("div", { class: "log", role: "log", "aria-live": "polite", "aria-label": "Answers" });
  #question = el("textarea", {
    id: "question", rows: 1, maxlength: 4000, placeholder: "Ask about this video", "aria-keyshortcuts": "a",
    enterkeyhint: "send",
  });
  #send = el("button", { type: "submit", class: "main" }, "Ask");
  #stop = el("button", { type: "button", hidden: true, click: () => this.stop() }, "Stop");
  #suggestions = el("div", { class: "suggestions" });

  constructor(facts, range, about) {
    super();
    this.#facts = facts;
    this.#range = range;
    this.#about = about;
    if (!kept.has(facts.id)) kept.set(facts.id, []);
    this.#turns = kept.get(facts.id);
    this.element = el(
      "section",
      { class: "chat", "aria-label": "Questions" },
      this.#log,
      this.#suggestions,
      el(
        "form",
        { class: "ask", submit: (event) => this.#submit(event) },
        el("label", { class: "unseen", for: "question" }, "Question about this video"),
        this.#question,
        this.#send,
        this.#stop,
      ),
    );
    this.#question.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) this.#submit(event);
    });
    for (const turn of this.#turns) this.#show(turn);
    this.#suggest();
  }

  /** Tell how far the video reaches now. */
  setRange(range) {
    this.#range = range;
  }

  /** The latest answer's facts, for a player that is shown again. */
  get latest() {
    return this.#turns.findLast((turn) => turn.extras)?.extras ?? null;
  }

  focus() {
    this.#question.focus();
  }

  /** Give up the answer that is on its way. */
  stop() {
    this.#stopper?.abort();
  }

  #suggest() {
    const asked = new Set(this.#turns.map((turn) => turn.question));
    const left = this.#about.questions.filter((question) => !asked.has(question)).slice(0, 3);
    fill(
      this.#suggestions,
      left.map((question) => el("button", { class: "small", click: () => this.ask(question) }, question)),
    );
  }

  #submit(event) {
    event.preventDefault();
    const question = this.#question.value.trim();
    if (!question || this.#stopper) return;
    this.#question.value = "";
    this.ask(question);
  }

  /** Ask a question; `anyway` also where the video is nothing that the model was trained on. */
  async ask(question, { anyway = false } = {}) {
    if (this.#stopper) return;
    const turn = { question, answer: "", extras: null, error: null, isCut: false, anyway };
    const history = this.#turns.filter((one) => one.answer && !one.error && !one.wasStopped).slice(-MAX_HISTORY);
    this.#turns.push(turn);
    const shown = this.#show(turn);
    this.#stopper = new AbortController();
    this.#busy(true);
    shown.begin();
    this.dispatchEvent(new Event("asked"));
    try {
      await this.#stream(turn, history, shown);
    } catch (error) {
      if (error.name === "AbortError") turn.wasStopped = true;
      else turn.error = error;
    }
    turn.isOver = true;
    this.#stopper = null;
    this.#busy(false);
    shown.end();
    this.#suggest();
    if (turn.extras) this.dispatchEvent(new CustomEvent("look", { detail: turn.extras }));
  }

  async #stream(turn, history, shown) {
    const response = await send("/v1/chat/completions", {
      method: "POST",
      signal: this.#stopper.signal,
      json: {
        model: this.#about.model,
        messages: this.#messages(turn, history),
        stream: true,
        voco_video: { with_attention: this.#about.measures_attention, anyway: turn.anyway },
      },
    });
    let isWhole = false;
    for await (const { data } of eventsOf(response)) {
      if (data === "[DONE]") {
        isWhole = true;
        break;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(500, chunk.error.message, chunk.error.code);
      const choice = chunk.choices[0];
      if (choice?.delta.content) {
        turn.answer += choice.delta.content;
        shown.grow(choice.delta.content);
      }
      if (choice?.finish_reason === "length") turn.isCut = true;
      if (chunk.voco_video) turn.extras = chunk.voco_video;
    }
    if (!isWhole) throw new ApiError(0, "The connection broke before the answer was whole.");
  }

  /** What is sent: the video stands in the first message, since the model sees it before all words. */
  #messages(turn, history) {
    const messages = [];
    for (const one of history) {
      messages.push({ role: "user", content: one.question }, { role: "assistant", content: one.answer });
    }
    messages.push({ role: "user", content: turn.question });
    messages[0].content = [
      { type: "video_url", video_url: { url: `voco://${encodeURIComponent(this.#facts.id)}` } },
      { type: "text", text: messages[0].content },
    ];
    return messages;
  }

  #busy(isBusy) {
    this.#send.hidden = isBusy;
    this.#stop.hidden = !isBusy;
    for (const button of this.#suggestions.children) button.disabled = isBusy;
  }

  /** Show a turn; returns what changes it while its answer comes. */
  #show(turn) {
    const answer = el("p", { class: "answer", dir: "auto" });
    const after = el("div", { class: "after" });
    const bubble = el("div", { class: "turn" }, el("p", { class: "question", dir: "auto" }, turn.question), answer, after);
    const scroll = () => this.#log.scrollTo({ top: this.#log.scrollHeight });
    const end = () => {
      bubble.removeAttribute("aria-busy");
      answer.classList.remove("waiting");
      fill(answer, this.#linked(turn.answer), turn.isCut && "…");
      answer.hidden = turn.answer === "" && (turn.error !== null || turn.wasStopped);
      if (turn.answer === "" && !answer.hidden) fill(answer, el("span", { class: "quiet" }, "(an empty answer)"));
      fill(after, this.#after(turn));
      scroll();
    };
    this.#log.append(bubble);
    if (turn.isOver) end();
    return {
      begin: () => {
        bubble.setAttribute("aria-busy", "true");
        answer.classList.add("waiting");
        scroll();
      },
      grow: (piece) => {
        answer.classList.remove("waiting");
        answer.append(piece);
        scroll();
      },
      end,
    };
  }

  #after(turn) {
    if (turn.wasStopped) return [el("p", { class: "quiet" }, "Stopped.")];
    if (turn.error) return [problem(turn.error, " ", this.#again(turn))];
    const { evidence, confidence, note, is_foreign: isForeign } = turn.extras ?? { evidence: [] };
    return [
      evidence.length > 0 &&
        el("p", { class: "evidence" }, "Looked at ", evidence.map((moment) => [this.#moment(moment, turn), " "])),
      confidence !== undefined && confidence !== null && el("p", { class: "quiet" }, `Confidence ${Math.round(confidence * 100)} %`),
      turn.isCut && el("p", { class: "quiet" }, "Cut at the most words that are taken here."),
      isForeign && el("p", { class: "note" }, "This video is nothing that the model was trained on: do not trust this answer."),
      note && note !== this.#about.note && el("p", { class: "quiet" }, note),
    ];
  }

  /** What can be done about an answer that did not come. */
  #again(turn) {
    const isForeign = turn.error.code === "foreign_video";
    return el(
      "button",
      { class: "small", click: () => this.ask(turn.question, { anyway: isForeign || turn.anyway }) },
      isForeign ? "Answer all the same" : "Ask again",
    );
  }

  #moment(moment, turn) {
    const times = `${clock(moment.start_seconds)}–${clock(moment.end_seconds)}`;
    const share = moment.share === undefined ? "" : ` (${Math.round(moment.share * 100)} %)`;
    return this.#link(moment.start_seconds, `${times}${share}`, turn);
  }

  #link(seconds, text, turn) {
    return el(
      "a",
      {
        class: "moment",
        href: momentLink(this.#facts.id, seconds),
        click: (event) => {
          if (event.ctrlKey || event.metaKey || event.shiftKey) return; // opened elsewhere
          event.preventDefault();
          if (turn?.extras) this.dispatchEvent(new CustomEvent("look", { detail: turn.extras }));
          this.dispatchEvent(new CustomEvent("jump", { detail: seconds }));
        },
      },
      text,
    );
  }

  /** A text with its times as links. */
  #linked(text) {
    const parts = [];
    let place = 0;
    for (const moment of momentsIn(text, this.#range)) {
      parts.push(text.slice(place, moment.start), this.#link(moment.seconds, text.slice(moment.start, moment.end)));
      place = moment.end;
    }
    return [...parts, text.slice(place)];
  }
}
