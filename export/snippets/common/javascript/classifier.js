/**
 * @@NAME@@ in a web page: an image in, the likeliest classes out. Written by resnet_keras together with @@FILE@@, whose
 * values stand below.
 */

import { preprocess } from "./pixels.js";

const MODEL = {
  file: "@@FILE@@",
  sha256: "@@SHA256@@",
  labels: "@@LABELS@@",
  input: { name: "@@INPUT_NAME@@", type: "@@INPUT_TYPE@@" },
  output: { name: "@@OUTPUT_NAME@@", scale: @@OUTPUT_SCALE@@, zeroPoint: @@OUTPUT_ZERO_POINT@@ },
};

const PREPROCESS = {
  height: @@HEIGHT@@,
  width: @@WIDTH@@,
  channels: @@CHANNELS@@,
  resizedHeight: @@RESIZED_HEIGHT@@,
  resizedWidth: @@RESIZED_WIDTH@@,
  interpolation: "@@INTERPOLATION@@",
};

const GOLDEN = {
  images: "@@GOLDEN_IMAGES@@",
  count: @@GOLDEN_COUNT@@,
  probabilities: "@@EXPECTED@@",
  tolerance: @@TOLERANCE@@,
  photo: "@@PHOTO@@",
  photoHeight: @@PHOTO_HEIGHT@@,
  photoWidth: @@PHOTO_WIDTH@@,
  photoPixels: "@@PHOTO_PIXELS@@",
  photoTolerance: @@PHOTO_TOLERANCE@@,
};

@@RUNTIME@@

/** Classifies images; as many at a time as you like, one after the other. */
export class Classifier {
  #baseUrl;
  #isChecked;
  #runtime;

  /**
   * @param {object} library what `start` has readied.
   * @param {string|URL} baseUrl where the bundle lies: the folder above `models`, `golden` and @@LABELS@@.
   * @param {{accelerator?: string}} options what computes: `"wasm"` is the processor, `"webgpu"` the graphics card.
   * @throws {Error} a file cannot be read, or the model is not the one that this code was written for.
   */
  static async load(library, baseUrl, { accelerator = "wasm" } = {}) {
    const base = new URL(String(baseUrl).replace(/\/?$/, "/"), location.href);
    const [bytes, labels] = await Promise.all([read(base, MODEL.file), read(base, MODEL.labels)]);
    const digest = await sha256(bytes);
    if (digest !== null && digest !== MODEL.sha256) {
      throw new Error(
        `Model: ${MODEL.file} has the SHA-256 ${digest}, not ${MODEL.sha256}. It was changed or is of another ` +
          "export: copy the whole bundle again.",
      );
    }
    const classifier = new Classifier();
    classifier.#baseUrl = base;
    classifier.#isChecked = digest !== null;
    classifier.#runtime = await Runtime.load(library, bytes, accelerator);
    /** @type {string[]} the names of the classes */
    classifier.labels = new TextDecoder().decode(labels).split("\n");
    return classifier;
  }

  /**
   * What the model takes of an image of any size.
   *
   * @param {{data: Uint8ClampedArray|Uint8Array, width: number, height: number}} image RGBA, such as ImageData.
   * @returns {Uint8Array} height * width * channels, raw: the normalisation is inside the model.
   */
  pixels(image) {
    return preprocess(image, PREPROCESS);
  }

  /**
   * @param {Uint8Array} pixels as `pixels` gives them.
   * @returns {Promise<Float32Array>} one probability a class.
   */
  async probabilities(pixels) {
    const { scale, zeroPoint } = MODEL.output;
    return Float32Array.from(await this.#runtime.run(pixels), (value) => (value - zeroPoint) * scale);
  }

  /**
   * @param {{data: Uint8ClampedArray|Uint8Array, width: number, height: number}} image RGBA, such as ImageData.
   * @param {number} k how many answers.
   * @returns {Promise<{label: string, index: number, probability: number}[]>} the likeliest first.
   */
  async classify(image, k = 5) {
    const probabilities = await this.probabilities(this.pixels(image));
    return Array.from(probabilities, (probability, index) => ({ label: this.labels[index], index, probability }))
      .sort((a, b) => b.probability - a.probability)
      .slice(0, k);
  }

  /**
   * Shows that this browser computes what the exporter computed: the file, the preprocessing, the answers.
   *
   * @returns {Promise<{images: number, largestDifference: number, tolerance: number}>}
   * @throws {Error} which of the three differs, how much, and what to do.
   */
  async selfTest() {
    if (!this.#isChecked) {
      throw new Error("Model: browsers give a SHA-256 only to pages from https or localhost. Open the page there.");
    }
    await this.#checkPhoto();
    return this.#checkImages();
  }

  delete() {
    this.#runtime.delete();
  }

  async #checkPhoto() {
    const { photoHeight: height, photoWidth: width } = GOLDEN;
    const [raw, expected] = await Promise.all([GOLDEN.photo, GOLDEN.photoPixels].map((file) => read(this.#baseUrl, file)));
    const data = new Uint8ClampedArray(4 * height * width).fill(255);
    for (let from = 0; from < raw.length; from++) data[from + Math.floor(from / 3)] = raw[from];
    const found = this.pixels({ data, width, height });
    const difference = largestDifference(found, expected);
    if (!(difference <= GOLDEN.photoTolerance)) {
      throw new Error(
        `Preprocessing: the pixels of ${GOLDEN.photo} differ by up to ${difference} levels from ` +
          `${GOLDEN.photoPixels}, more than ${GOLDEN.photoTolerance}. Use pixels.js as it is, and no other resizing.`,
      );
    }
  }

  async #checkImages() {
    const files = [GOLDEN.images, GOLDEN.probabilities].map((file) => read(this.#baseUrl, file));
    const [images, { buffer }] = await Promise.all(files);
    const expected = new Float32Array(buffer);
    const [size, classes] = [images.length / GOLDEN.count, expected.length / GOLDEN.count];
    let largest = 0;
    for (let k = 0; k < GOLDEN.count; k++) {
      const found = await this.probabilities(images.subarray(k * size, (k + 1) * size));
      const wanted = expected.subarray(k * classes, (k + 1) * classes);
      const difference = largestDifference(found, wanted);
      const [answer, right] = [found, wanted].map((row) => row.indexOf(Math.max(...row)));
      if (answer !== right || !(difference <= GOLDEN.tolerance)) {
        throw new Error(
          `Answers: golden image ${k} is ${this.labels[answer]} here and ${this.labels[right]} where the file was ` +
            `made; a probability differs by ${difference}, and ${GOLDEN.tolerance} is allowed. Try the accelerator ` +
            '"wasm": graphics cards compute in half precision.',
        );
      }
      largest = Math.max(largest, difference);
    }
    return { images: GOLDEN.count, largestDifference: largest, tolerance: GOLDEN.tolerance };
  }
}

/**
 * The RGBA values of an image file, turned as its EXIF tag says, with the colours as stored, as in training.
 *
 * @param {Blob} blob such as a File.
 * @returns {Promise<ImageData>}
 */
export async function decode(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

async function read(baseUrl, file) {
  const response = await fetch(new URL(file, baseUrl));
  if (!response.ok) throw new Error(`${response.url} cannot be read: ${response.status}. Is the bundle complete?`);
  return new Uint8Array(await response.arrayBuffer());
}

/** In hexadecimal, or null for pages whose origin browsers do not trust with it. */
async function sha256(bytes) {
  if (!globalThis.crypto?.subtle) return null;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** NaN where the lengths differ, or a value is none. */
function largestDifference(found, expected) {
  if (found.length !== expected.length) return NaN;
  return found.reduce((largest, value, k) => Math.max(largest, Math.abs(value - expected[k])), 0);
}
