// Requests to the server. Its errors become exceptions that carry its message; a missing key is asked for.

import { askForKey } from "./key.js";

/** A request that the server refused, or that did not reach it (status 0). */
export class ApiError extends Error {
  constructor(status, message, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Send a request and return its response; asks for the API key where the server wants it, then tries again. */
export async function send(path, { method = "GET", json, signal } = {}) {
  const options = { method, signal };
  if (json !== undefined) {
    options.body = JSON.stringify(json);
    options.headers = { "Content-Type": "application/json" };
  }
  for (;;) {
    let response;
    try {
      response = await fetch(path, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "The server cannot be reached. Is it still running?");
    }
    if (response.ok) return response;
    const error = await errorOf(response);
    if (error.status !== 401) throw error;
    await askForKey();
  }
}

/** Send a request and return the JSON of its response; null for an empty one. */
export async function ask(path, options) {
  const response = await send(path, options);
  return response.status === 204 ? null : response.json();
}

/** Make an exception of a refusal in OpenAI's form. */
export function errorFrom(status, text) {
  try {
    const { error } = JSON.parse(text);
    return new ApiError(status, String(error.message), error.code);
  } catch {
    return new ApiError(status, `The server answered with status ${status}.`);
  }
}

async function errorOf(response) {
  return errorFrom(response.status, await response.text());
}

/** Yield the events of a stream of server-sent events, as {event, data}. */
export async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (held + value).split("\n\n");
    held = blocks.pop();
    for (const block of blocks) {
      const found = { event: "message", data: "" };
      for (const line of block.split("\n")) {
        if (line.startsWith("event: ")) found.event = line.slice(7);
        else if (line.startsWith("data: ")) found.data += line.slice(6);
      }
      if (found.data) yield found;
    }
  }
}

/** The address of a frame of a video as a picture. */
export function thumbnail(video, seconds, width = 320) {
  return `/api/videos/${encodeURIComponent(video)}/thumbnail?t=${seconds.toFixed(3)}&width=${width}`;
}
