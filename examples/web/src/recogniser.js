/** The classifier, for anything that can be drawn, with times. */

import { rgba } from "./picture.js";

const ANSWERS = 5;

export class Recogniser {
  #classifier;
  #last = Promise.resolve();

  /** @param {object} classifier of the bundle, @param {object} preprocess of `bundle.json`. */
  constructor(classifier, preprocess) {
    this.#classifier = classifier;
    this.preprocess = preprocess;
    this.labels = classifier.labels;
  }

  /**
   * One call after the other: the runtime has one set of buffers.
   *
   * @param {CanvasImageSource} source of `size` pixels.
   * @returns {Promise<{pixels: Uint8Array, answers: {label: string, probability: number}[], preparationMs: number,
   *     inferenceMs: number}>} what the model saw, its likeliest classes, and how long both took.
   */
  recognise(source, size) {
    const task = () => this.#recognise(source, size);
    return (this.#last = this.#last.then(task, task));
  }

  async #recognise(source, { width, height }) {
    const started = performance.now();
    const pixels = this.#classifier.pixels(rgba(source, width, height));
    const prepared = performance.now();
    const probabilities = await this.#classifier.probabilities(pixels);
    const inferenceMs = performance.now() - prepared;
    const answers = Array.from(probabilities, (probability, k) => ({ label: this.labels[k], probability }))
      .sort((a, b) => b.probability - a.probability)
      .slice(0, ANSWERS);
    return { pixels, answers, preparationMs: prepared - started, inferenceMs };
  }
}
