/** Which model this is, what runs it, and what was tested. */

import { $ } from "./page.js";

export function showName({ index, model }) {
  document.title = index.name;
  $("name").textContent = index.name;
  $("facts").textContent = `${model.recipe}, ${kibibytes(model)}`;
}

/**
 * @param {{index: object, model: object}} bundle
 * @param {object} engine see `startEngine`.
 * @param {boolean} offline whether the app works without a network.
 */
export function showAbout({ index, model }, { backend, latencyMs, slower, test, classifier }, offline) {
  const { height, width, crop_fraction, interpolation } = index.preprocess;
  const others = slower.map((other) => `; ${other.backend} takes ${milliseconds(other)}`).join("");
  const facts = {
    File: model.file.split("/").at(-1),
    Recipe: model.recipe,
    Size: kibibytes(model),
    Classes: classifier.labels.length,
    Input: `${model.input.dtype}, ${model.input.shape.join(" × ")}`,
    Preprocessing: `${interpolation}, ${width} × ${height}, of the centre ${Math.round(100 * crop_fraction)} %`,
    Backend: `${backend} takes ${milliseconds({ latencyMs })}${others}`,
    Runtime: `LiteRT.js ${LITERT_VERSION}`,
    "Self-test": `${test.images} images, largest difference ${short(test.largestDifference)} (tolerance ${short(test.tolerance)})`,
    Offline: offline ? "works without a network" : "needs the network in this browser",
    "SHA-256": model.sha256,
  };
  for (const [term, fact] of Object.entries(facts)) {
    const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
    dt.textContent = term;
    dd.textContent = fact;
    $("about-list").append(dt, dd);
  }
  $("about").hidden = false;
}

const kibibytes = (model) => `${Math.round(model.size_bytes / 1024).toLocaleString("en")} KiB`;

const milliseconds = ({ latencyMs }) => `${latencyMs.toFixed(1)} ms`;

const short = (value) => String(Number(value.toPrecision(2)));
