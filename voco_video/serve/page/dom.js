// Elements made from names, attributes and children. Text goes in as text nodes, so no name or answer is read as markup.

/** Make an element. Attributes that are functions listen to events; null and false leave an attribute out. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, String(value));
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** Put children in place of what an element holds. */
export function fill(parent, ...children) {
  parent.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
}

/** Tell screen readers something that only the eye would notice. */
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}

/** Show what went wrong in a place of the page, where it is about that place. */
export function problem(error, ...actions) {
  return el("p", { class: "problem", role: "alert" }, error instanceof Error ? error.message : String(error), actions);
}

/** Whether a key was pressed where somebody types or chooses, so that it is no shortcut. */
export function isTyping(target) {
  return target instanceof Element && target.closest("input, textarea, select, button, a, summary, video, dialog") !== null;
}

/** Say a number of bytes. */
export function bytes(count) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let value = count;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** Say a number of things. */
export function count(number, thing) {
  return `${number} ${thing}${number === 1 ? "" : "s"}`;
}
