// The prompt for the server's API key, which it trades for a cookie of this browser.

import { el, fill } from "./dom.js";

let open = null;

/** Ask for the key; resolves once the server has taken it. Requests that fail together share one prompt. */
export function askForKey() {
  open ??= prompt().finally(() => {
    open = null;
  });
  return open;
}

function prompt() {
  return new Promise((resolve) => {
    const refused = el("p", { class: "problem", role: "alert", hidden: true });
    const key = el("input", { id: "key", type: "password", autocomplete: "current-password", required: true });
    const button = el("button", { type: "submit", class: "main" }, "Open");
    const dialog = el(
      "dialog",
      { class: "key", "aria-labelledby": "key-title", cancel: (event) => event.preventDefault() },
      el(
        "form",
        { submit: (event) => give(event) },
        el("h2", { id: "key-title" }, "This server asks for its key"),
        el("p", { class: "quiet" }, "Whoever started it has the key. A cookie remembers it in this browser."),
        el("label", { for: "key" }, "API key"),
        // Keepers of passwords file a password under a name.
        el("input", { autocomplete: "username", value: "voco-video", hidden: true }),
        key,
        refused,
        el("p", { class: "actions" }, button),
      ),
    );

    async function give(event) {
      event.preventDefault();
      button.disabled = true;
      refused.hidden = true;
      const said = await trade(key.value.trim());
      button.disabled = false;
      if (said === "") {
        dialog.close();
        dialog.remove();
        resolve();
        return;
      }
      fill(refused, said);
      refused.hidden = false;
      key.select();
    }

    document.body.append(dialog);
    dialog.showModal();
    key.focus();
  });
}

/** Send the key; returns what is wrong with it, or nothing. */
async function trade(key) {
  try {
    const response = await fetch("/api/session", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ key }),
    });
    if (response.ok) return "";
    return response.status === 401 ? "This is not the server's key." : `The server answered with status ${response.status}.`;
  } catch {
    return "The server cannot be reached. Is it still running?";
  }
}
