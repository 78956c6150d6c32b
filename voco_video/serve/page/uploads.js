// Uploads in pieces: one that breaks goes on where it stopped.

import { ApiError, ask, errorFrom } from "./api.js";

const PIECE_BYTES = 8 * 2 ** 20;
const MAX_TRIES = 5;

/**
 * Upload a file and have it compressed; returns {video, job}.
 * onProgress gets how many bytes the server has; the signal gives the upload up.
 */
export async function upload(file, { onProgress, signal }) {
  if (file.size === 0) throw new ApiError(400, "The file is empty.");
  const begun = await ask("/api/uploads", { method: "POST", json: { name: file.name, size_bytes: file.size }, signal });
  const place = `/api/uploads/${encodeURIComponent(begun.upload)}`;
  let offset = 0;
  let tries = 0;
  try {
    for (;;) {
      try {
        const piece = file.slice(offset, offset + PIECE_BYTES);
        const reply = await sendPiece(place, piece, offset, (sent) => onProgress(offset + sent), signal);
        if (reply.video) return reply;
        offset = reply.offset;
        tries = 0;
      } catch (error) {
        const canGoOn = error.status === 0 || error.status === 409 || error.status === 503;
        tries += 1;
        if (!canGoOn || tries > MAX_TRIES || signal.aborted) throw error;
        await new Promise((resolve) => setTimeout(resolve, 500 * tries));
        offset = (await ask(place, { signal })).offset;
      }
    }
  } catch (error) {
    fetch(place, { method: "DELETE" }).catch(() => {}); // the server drops what is never finished by itself, too
    throw error;
  }
}

/** Send one piece. XMLHttpRequest, since fetch does not tell how much has been sent. */
function sendPiece(place, piece, offset, onSent, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const stop = () => request.abort();
    request.open("PATCH", place);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.setRequestHeader("Upload-Offset", String(offset));
    request.upload.addEventListener("progress", (event) => onSent(event.loaded));
    request.addEventListener("load", () => {
      if (request.status >= 200 && request.status < 300) resolve(JSON.parse(request.responseText));
      else reject(errorFrom(request.status, request.responseText));
    });
    request.addEventListener("error", () => reject(new ApiError(0, "The connection broke while uploading.")));
    request.addEventListener("abort", () => reject(new DOMException("given up", "AbortError")));
    request.addEventListener("loadend", () => signal.removeEventListener("abort", stop));
    signal.addEventListener("abort", stop);
    request.send(piece);
  });
}
