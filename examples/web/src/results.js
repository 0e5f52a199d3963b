/** Results on the page. */

import { percent } from "./page.js";
import { drawPixels, drawPreview } from "./picture.js";

const clone = (id) => document.getElementById(id).content.cloneNode(true).firstElementChild;

/** A picture's place in the list, to be filled when the answer is there. */
export class Card {
  /**
   * @param {Element} list
   * @param {string} title such as the file's name.
   * @param {Element|null} before the card that it is put in front of.
   */
  constructor(list, title, before) {
    this.title = title;
    this.element = clone("result");
    this.element.querySelector("h3").textContent = title;
    list.insertBefore(this.element, before);
  }

  /** @param {CanvasImageSource} source of `size` pixels, of which the model saw `result.pixels`. */
  fill(source, size, result, preprocess) {
    const figures = clone("figures");
    const [preview, seen] = figures.querySelectorAll("canvas");
    drawPreview(preview, source, size, preprocess);
    preview.setAttribute("aria-label", `${this.title}, ${size.width} by ${size.height} pixels`);
    showSeen(seen, result.pixels, preprocess);
    const answers = clone("answers");
    showAnswers(answers, result);
    this.element.append(figures, answers);
    this.element.removeAttribute("aria-busy");
  }

  fail(error) {
    const problem = document.createElement("p");
    problem.className = "problem";
    problem.textContent = error.message;
    this.element.append(problem);
    this.element.removeAttribute("aria-busy");
  }
}

/** The pixels that the model takes. */
export function showSeen(canvas, pixels, preprocess) {
  drawPixels(canvas, pixels, preprocess);
  canvas.setAttribute("aria-label", `What the model sees, ${preprocess.width} by ${preprocess.height} pixels`);
}

/** The answers as a list with bars, and the times, in place of those that were there. */
export function showAnswers(place, { answers, inferenceMs, preparationMs }) {
  const items = answers.map(({ label, probability }) => {
    const item = clone("answer");
    item.querySelector(".label").textContent = label;
    item.querySelector(".percent").textContent = percent(probability);
    item.querySelector(".fill").style.width = `${100 * probability}%`;
    return item;
  });
  place.querySelector("ol").replaceChildren(...items);
  const [inference, preparation] = [inferenceMs, preparationMs].map((time) => `${time.toFixed(1)} ms`);
  place.querySelector(".timing").textContent = `Inference ${inference}, preprocessing ${preparation}`;
}
