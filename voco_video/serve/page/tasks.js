// What is at work: uploads of this page, and the server's jobs. It outlives the view that shows it.

import { ask } from "./api.js";
import { announce } from "./dom.js";
import { upload } from "./uploads.js";

const ENDED = ["done", "failed", "cancelled", "interrupted"];
const tasks = new Map(); // by id: {id, name, stage, done, total, unit, state, error, video, cancel}
const listeners = new Set();
const MAX_UPLOADS = 2; // at once; the others wait
const LOOK_MS = 500;
const MAX_FAILED = 10;
let nextUpload = 1;
let numUploads = 0;
const waiting = []; // uploads, as functions that let them begin
let isWatching = false;

/** Call a function whenever a task has changed, with the task; returns what stops that. */
export function onTask(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** The tasks that run or failed, the latest first. */
export function shownTasks() {
  return [...tasks.values()].reverse();
}

/** Take a task that is over out of the list. */
export function dismiss(task) {
  tasks.delete(task.id);
  tell(task);
}

/** Upload a file, then follow the job that compresses it. */
export async function addFile(file) {
  const control = new AbortController();
  const task = {
    id: `upload-${nextUpload++}`, name: file.name, stage: "waiting to be uploaded", done: 0, total: file.size, unit: "bytes",
    state: "running", error: null, video: null, cancel: () => {
      control.abort();
      dismiss(task);
    },
  };
  change(task);
  if (numUploads >= MAX_UPLOADS) await new Promise((resolve) => waiting.push(resolve));
  numUploads += 1;
  try {
    control.signal.throwIfAborted();
    change(task, { stage: "uploading" });
    const { video, job } = await upload(file, {
      signal: control.signal,
      onProgress: (done) => change(task, { done: Math.min(done, file.size) }),
    });
    tasks.delete(task.id);
    if (job) followJob(job, { name: video.name, video: video.id });
    else change(task, { state: "done", video: video.id });
  } catch (error) {
    if (error.name === "AbortError") dismiss(task);
    else change(task, { state: "failed", error });
  } finally {
    numUploads -= 1;
    waiting.shift()?.();
  }
}

/** Have the server add a file below its media root, {path}, or a URL, {url}. Throws what it refuses. */
export async function addOnServer(what) {
  const { job } = await ask("/api/videos/add", { method: "POST", json: what });
  followJob(job);
}

/** Have a video compressed that is in the library. Throws what the server refuses. */
export async function compress(video) {
  const place = `/api/videos/${encodeURIComponent(video.id)}/compress`;
  const { job } = await ask(place, { method: "POST", json: {} });
  followJob(job, { name: video.name, video: video.id });
}

/** Follow the jobs that run already, such as after the page was loaded again. */
export async function followRunning() {
  const { jobs } = await ask("/api/jobs");
  for (const job of jobs.reverse()) if (!ENDED.includes(job.state)) followJob(job);
}

function followJob(job, { name = job.name, video = null } = {}) {
  if (tasks.has(job.id)) return;
  const place = `/api/jobs/${encodeURIComponent(job.id)}`;
  const task = {
    id: job.id, name: name || "a video", isJob: true, video,
    cancel: () => ask(place, { method: "DELETE" }).then((facts) => take(task, facts), () => {}),
  };
  take(task, job);
  watchJobs();
}

function take(task, facts) {
  change(task, {
    stage: facts.state === "waiting" ? "waiting for its turn" : facts.stage || "opening",
    done: facts.num_done, total: facts.num_total, unit: facts.unit, state: facts.state,
    error: facts.error && new Error(facts.error.message), video: facts.video || task.video,
  });
}

/** Look at all jobs together: a stream of events for each would use up the few connections that a browser has. */
async function watchJobs() {
  if (isWatching) return;
  isWatching = true;
  let numFailed = 0;
  for (;;) {
    const open = [...tasks.values()].filter((task) => task.isJob && !ENDED.includes(task.state));
    if (open.length === 0) break;
    await new Promise((resolve) => setTimeout(resolve, numFailed ? 3000 : LOOK_MS));
    try {
      const { jobs } = await ask("/api/jobs");
      numFailed = 0;
      const found = new Map(jobs.map((job) => [job.id, job]));
      for (const task of open) {
        const facts = found.get(task.id);
        if (facts) take(task, facts);
        else change(task, { state: "interrupted" }); // the server has begun anew and does not know it
      }
    } catch (error) {
      numFailed += 1;
      if (numFailed >= MAX_FAILED) for (const task of open) change(task, { state: "failed", error });
    }
  }
  isWatching = false;
}

function change(task, changes = {}) {
  Object.assign(task, changes);
  tasks.set(task.id, task);
  if (task.state === "done") {
    tasks.delete(task.id);
    announce(`${task.name} is ready`);
  } else if (task.state === "cancelled") tasks.delete(task.id);
  tell(task);
}

function tell(task) {
  for (const listener of [...listeners]) listener(task);
}
