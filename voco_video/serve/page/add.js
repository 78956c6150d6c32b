// Adding videos: files dropped or chosen, the demo clip, a URL, a file below the server's media root.

import { ask, send } from "./api.js";
import { bytes, el, fill, problem } from "./dom.js";
import { addFile, addOnServer } from "./tasks.js";

/** Make the part of the page that adds videos. */
export function addVideos(about) {
  const input = el("input", {
    type: "file", id: "files", class: "unseen", multiple: true, accept: "video/*,.mkv,.ts,.flv,.gif",
    change: () => {
      takeFiles(input.files);
      input.value = "";
    },
  });
  const demo = el("button", { class: "small", click: addDemo }, "Add the demo clip");
  const wrong = el("div");
  const zone = el(
    "div",
    { class: "drop" },
    el("p", {}, el("label", { class: "button main", for: "files" }, "Choose videos"), input, " or drop them here"),
    el("p", { class: "quiet" }, `Up to ${bytes(about.max_upload_bytes)} each. No video at hand? `, demo),
    wrong,
  );
  catchDrops(zone);

  async function addDemo() {
    demo.disabled = true;
    fill(wrong);
    try {
      const clip = await (await send("/api/demo-clip")).blob();
      addFile(new File([clip], "demo.mp4"));
    } catch (error) {
      fill(wrong, problem(error));
    } finally {
      demo.disabled = false;
    }
  }

  return el(
    "section",
    { class: "add", "aria-labelledby": "add-title" },
    el("h2", { id: "add-title" }, "Add videos"),
    zone,
    about.takes_urls && fromUrl(),
    about.has_media_root && fromFolder(),
  );
}

function takeFiles(files) {
  for (const file of files) addFile(file);
}

/** Take files that are dropped anywhere on the page while this part is shown, and never leave the page for one. */
function catchDrops(zone) {
  const ends = new AbortController();
  const listen = (kind, listener) =>
    document.addEventListener(
      kind,
      (event) => {
        if (!zone.isConnected) ends.abort();
        else if (event.dataTransfer?.types.includes("Files")) listener(event);
      },
      { signal: ends.signal },
    );
  listen("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  listen("dragleave", (event) => {
    if (event.relatedTarget === null) zone.classList.remove("over");
  });
  listen("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    takeFiles(event.dataTransfer.files);
  });
}

function fromUrl() {
  const url = el("input", { type: "url", id: "url", placeholder: "https://…", required: true, maxlength: 4096 });
  const wrong = el("div");
  const give = async (event) => {
    event.preventDefault();
    fill(wrong);
    try {
      await addOnServer({ url: url.value.trim() });
      url.value = "";
    } catch (error) {
      fill(wrong, problem(error));
    }
  };
  return el(
    "details",
    {},
    el("summary", {}, "From a URL"),
    el("form", { class: "row", submit: give }, el("label", { for: "url" }, "URL"), url, el("button", {}, "Add")),
    wrong,
  );
}

function fromFolder() {
  const list = el("div", { class: "folder" });
  const element = el("details", {}, el("summary", {}, "From the server's folder"), list);
  element.addEventListener("toggle", () => element.open && list.childElementCount === 0 && show(""));

  async function show(path) {
    let held;
    try {
      held = await ask(`/api/folder?path=${encodeURIComponent(path)}`);
    } catch (error) {
      fill(list, problem(error), path && el("button", { class: "small", click: () => show("") }, "Back to the top"));
      return;
    }
    const parts = held.path === "." || held.path === "" ? [] : held.path.split("/");
    const above = ["", ...parts].slice(0, -1).map((part, place) => ({
      name: part || "top", path: parts.slice(0, place).join("/"),
    }));
    fill(
      list,
      parts.length > 0 &&
        el(
          "p",
          { class: "trail" },
          above.map((one) => [el("button", { class: "link", click: () => show(one.path) }, one.name), " / "]),
          el("bdi", {}, parts.at(-1)),
        ),
      held.folders.length + held.videos.length === 0 && el("p", { class: "quiet" }, "There is no video here."),
      el(
        "ul",
        {},
        held.folders.map((one) =>
          el("li", {}, el("button", { class: "link", click: () => show(one.path) }, el("bdi", {}, `${one.name}/`))),
        ),
        held.videos.map(oneFile),
      ),
    );
    if (path) list.querySelector("button")?.focus();
  }

  return element;
}

function oneFile(video) {
  const wrong = el("div");
  const add = el("button", { class: "small", "aria-label": `Add ${video.name}` }, "Add");
  add.addEventListener("click", async () => {
    add.disabled = true;
    fill(wrong);
    try {
      await addOnServer({ path: video.path });
      add.textContent = "Added";
    } catch (error) {
      add.disabled = false;
      fill(wrong, problem(error));
    }
  });
  const size = el("span", { class: "quiet" }, bytes(video.size_bytes));
  return el("li", {}, el("bdi", { class: "name" }, video.name), size, add, wrong);
}
