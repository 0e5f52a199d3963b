/** What the page says of itself. */

export const $ = (id) => document.getElementById(id);

/** @param {"busy"|"ready"|"failed"} state @param {string} text in one line. */
export function say(state, text) {
  $("status").dataset.state = state;
  $("status-text").textContent = text;
}

/** Something that the user has to know, or an empty text where there is nothing any more. */
export function notify(text) {
  $("notice").textContent = text;
  $("notice").hidden = text === "";
}

/** Tells screen readers what the eye sees. */
export function announce(text) {
  $("announcer").textContent = text;
}

export const percent = (probability) => `${(100 * probability).toFixed(1)} %`;

export const sentence = ({ label, probability }) => `${label}, ${percent(probability)}`;
