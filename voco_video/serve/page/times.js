// Times as people write them, and times found in what a model writes.

/** Write seconds as 1:02:03 or 0:07, with tenths where they are wanted and there are some. */
export function clock(seconds, { tenths = false } = {}) {
  const all = tenths ? Math.round(Math.abs(seconds) * 10) / 10 : Math.floor(Math.abs(seconds) + 1e-6);
  const whole = Math.floor(all + 1e-9);
  const parts = [Math.floor(whole / 60) % 60, whole % 60];
  if (whole >= 3600) parts.unshift(Math.floor(whole / 3600));
  const [first, ...others] = parts;
  const tenth = Math.round((all - whole) * 10);
  const text = [first, ...others.map((part) => String(part).padStart(2, "0"))].join(":");
  return `${seconds < 0 && all > 0 ? "-" : ""}${text}${tenth ? `.${tenth}` : ""}`;
}

/** Say a time in words, for screen readers. */
export function spoken(seconds) {
  const whole = Math.floor(Math.abs(seconds) + 1e-6);
  const parts = [
    [Math.floor(whole / 3600), "hour"],
    [Math.floor(whole / 60) % 60, "minute"],
    [whole % 60, "second"],
  ].filter(([number, unit], place) => number || (place === 2 && whole === 0));
  const text = parts.map(([number, unit]) => `${number} ${unit}${number === 1 ? "" : "s"}`).join(" ");
  return seconds < 0 && whole ? `minus ${text}` : text;
}

const CLOCK = String.raw`(?:(\d{1,3}):)?(\d{1,2}):([0-5]\d(?:\.\d+)?)(?![\d:])`;
const SECONDS = String.raw`(\d+(?:\.\d+)?)\s?(?:s|sec|secs|seconds?)\b`;
const WRITTEN = new RegExp(String.raw`(?<![\d:.,-])(?:${CLOCK}|${SECONDS})`, "g");
// "for 3 seconds" is how long something takes, not when it is; "3:1" is a score and has no two digits behind the colon.
const A_LENGTH = /(?:\b(?:for|within|lasts?|lasting|takes?|took|every|about every|another|total of)|\bin under)\s+$/i;

/**
 * Find the moments that a text writes and that lie in a video.
 * Returns [{start, end, seconds}], places in the text and the time.
 */
export function momentsIn(text, { from, to }) {
  const found = [];
  for (const match of text.matchAll(WRITTEN)) {
    const [whole, hours, minutes, seconds, plain] = match;
    if (plain !== undefined && A_LENGTH.test(text.slice(0, match.index))) continue;
    const at = plain !== undefined ? Number(plain) : Number(hours ?? 0) * 3600 + Number(minutes) * 60 + Number(seconds);
    if (at >= from && at <= to) found.push({ start: match.index, end: match.index + whole.length, seconds: at });
  }
  return found;
}

/** The address of a moment of a video in this page. */
export function momentLink(video, seconds, { play = false } = {}) {
  return `#/video/${encodeURIComponent(video)}?t=${seconds.toFixed(3).replace(/\.?0+$/, "")}${play ? "&play=1" : ""}`;
}
