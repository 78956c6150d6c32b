// The page: which view the address asks for, and what stands around the views.

import { ask } from "./api.js";
import { isTyping } from "./dom.js";
import { showLibrary } from "./library.js";
import { showSearch } from "./search.js";
import { followRunning } from "./tasks.js";
import { showVideo } from "./watch.js";

const main = document.getElementById("main");
const trouble = document.getElementById("problem");
const search = document.getElementById("search");
let about = null;
let isFirst = true;
let stop = () => {};
let watched = null; // {id, goTo} of the video that is shown

/** What an address asks for: {view, id, query, seconds, play}. */
function readAddress() {
  const [path, parameters] = location.hash.replace(/^#\/?/, "").split("?");
  const [view, ...rest] = path.split("/");
  const word = decoded(rest.join("/"));
  const values = new URLSearchParams(parameters);
  const seconds = values.has("t") ? Number(values.get("t")) : null;
  return { view, word, seconds: Number.isFinite(seconds) ? seconds : null, play: values.get("play") === "1" };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function show() {
  if (location.hash === "#main") return; // the link that skips the header
  const { view, word, seconds, play } = readAddress();
  if (view === "video" && watched?.id === word && watched.view.goTo) {
    if (seconds !== null) watched.view.goTo(seconds, { play });
    return;
  }
  stop();
  watched = null;
  document.title = "voco-video";
  if (view === "video" && word) {
    const shown = showVideo(main, word, { seconds, play }, about);
    watched = { id: word, view: shown };
    stop = shown.stop;
  } else if (view === "search" && word.trim()) {
    search.value = word;
    document.title = `${word} – voco-video`;
    stop = showSearch(main, word);
  } else stop = showLibrary(main, about);
  window.scrollTo(0, 0);
  if (isFirst) isFirst = false;
  else main.focus({ preventScroll: true }); // a reader of screens goes on at the new view
}

/** Show a failure that no view has shown. */
function tellTrouble(error) {
  if (error?.name === "AbortError") return;
  trouble.textContent = error?.message ?? String(error);
  trouble.hidden = false;
}

document.getElementById("search-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const words = search.value.trim();
  const address = `#/search/${encodeURIComponent(words)}`;
  if (location.hash === address) show(); // searched again, perhaps among more videos
  else if (words) location.hash = address;
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
  event.preventDefault();
  search.focus();
  search.select();
});
window.addEventListener("unhandledrejection", (event) => tellTrouble(event.reason));
window.addEventListener("hashchange", () => {
  trouble.hidden = true;
  if (about) show();
});

async function start() {
  try {
    about = await ask("/api/about");
    document.getElementById("about").textContent = `${about.model} · voco-video ${about.version}`;
    await followRunning();
    show();
  } catch (error) {
    main.replaceChildren();
    tellTrouble(error);
  }
}

start();
