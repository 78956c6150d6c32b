// Uploads and jobs with their progress, as a list.

import { bytes, el, fill, problem } from "./dom.js";
import { dismiss, onTask, shownTasks } from "./tasks.js";

/** Make the list; returns {element, stop}. Call stop when it is shown no more. */
export function taskList() {
  const element = el("section", { class: "tasks", "aria-label": "At work", hidden: true });
  const rows = new Map(); // a row is kept while its task changes, so that focus stays on its button

  function render() {
    const tasks = shownTasks();
    element.hidden = tasks.length === 0;
    for (const id of [...rows.keys()]) if (!tasks.some((task) => task.id === id)) rows.delete(id);
    for (const task of tasks) {
      if (!rows.has(task.id)) rows.set(task.id, makeRow(task));
      rows.get(task.id).update(task);
    }
    const wanted = tasks.map((task) => rows.get(task.id).element);
    if (wanted.some((row, place) => row !== element.children[place]) || wanted.length !== element.children.length)
      fill(element, wanted);
  }

  render();
  return { element, stop: onTask(render) };
}

function makeRow(task) {
  const stage = el("span", { class: "quiet" });
  const bar = el("progress", { "aria-label": `Progress of ${task.name}` });
  const error = el("div");
  const button = el("button", { class: "small", click: () => (isOver(task) ? dismiss(task) : task.cancel()) });
  const element = el(
    "article",
    { class: "task" },
    el("div", { class: "task-head" }, el("bdi", { class: "name" }, task.name), stage, button),
    bar,
    error,
  );
  let shownError = null;

  function update() {
    stage.textContent = said(task);
    bar.hidden = isOver(task);
    if (task.total) {
      bar.max = task.total;
      bar.value = task.done;
    } else bar.removeAttribute("value");
    const label = isOver(task) ? "Dismiss" : "Cancel";
    button.textContent = label;
    button.setAttribute("aria-label", `${label} ${task.name}`);
    if (isOver(task) && task.error !== shownError) {
      shownError = task.error;
      fill(error, shownError && problem(shownError));
    }
  }

  return { element, update };
}

function isOver(task) {
  return task.state === "failed" || task.state === "interrupted";
}

function said(task) {
  if (task.state === "failed") return "failed";
  if (task.state === "interrupted") return "interrupted: the server stopped";
  if (!task.total) return task.stage;
  const size = (number) => (task.unit === "bytes" ? bytes(number) : number);
  return `${task.stage}: ${size(task.done)} of ${size(task.total)}${task.unit === "bytes" ? "" : ` ${task.unit}`}`;
}
