/** The camera on the page: what it sees is classified again and again, and a picture can be taken. */

import { Camera } from "./camera.js";
import { $, announce, notify, sentence } from "./page.js";
import { showAnswers, showSeen } from "./results.js";

const GAP_MS = 100; // between two looks: nobody reads faster, and a phone stays cool
const ANNOUNCEMENT_GAP_MS = 2000; // a screen reader has to come to the end of a sentence

export class Viewfinder {
  #camera = new Camera($("video"));
  #recogniser;
  #announced = { label: "", timeMs: -Infinity };

  /**
   * @param {Recogniser} recogniser
   * @param {(picture: ImageBitmap) => void} onPicture called with a picture that was taken.
   */
  constructor(recogniser, onPicture) {
    this.#recogniser = recogniser;
    const { width, height, crop_fraction } = recogniser.preprocess;
    // What the frame shows is what the model sees.
    $("finder").style.aspectRatio = `${width} / ${height}`;
    $("video").style.scale = 1 / crop_fraction;
    $("open-camera").addEventListener("click", () => this.open());
    $("close-camera").addEventListener("click", () => this.close());
    $("turn").addEventListener("click", () => this.#turn());
    $("pause").addEventListener("click", () => $("pause").setAttribute("aria-pressed", !this.#paused));
    $("shutter").addEventListener("click", async () => {
      const picture = await createImageBitmap($("video"));
      this.close();
      onPicture(picture);
    });
    document.addEventListener("visibilitychange", () => document.hidden && this.close());
  }

  get #paused() {
    return $("pause").getAttribute("aria-pressed") === "true";
  }

  async open() {
    notify("");
    try {
      await this.#camera.start();
    } catch (error) {
      this.#fail(error);
      return;
    }
    this.#show(true);
    $("shutter").focus();
    $("turn").hidden = !(await this.#camera.hasOther());
    this.#watch();
  }

  close() {
    if (!this.#camera.open) return;
    this.#camera.stop();
    this.#show(false);
    $("open-camera").focus();
  }

  async #turn() {
    try {
      await this.#camera.turn();
    } catch (error) {
      this.#fail(error);
    }
  }

  #fail(error) {
    this.#camera.stop();
    this.#show(false);
    notify(error.message);
  }

  #show(open) {
    $("camera").hidden = $("bar-camera").hidden = !open;
    $("bar-start").hidden = open;
  }

  async #watch() {
    while (this.#camera.open) {
      const size = { width: $("video").videoWidth, height: $("video").videoHeight };
      if (!this.#paused && size.width > 0) {
        const result = await this.#recogniser.recognise($("video"), size);
        showSeen($("live-seen"), result.pixels, this.#recogniser.preprocess);
        showAnswers($("live"), result);
        this.#announceChange(result.answers[0]);
      }
      await new Promise((resolve) => setTimeout(resolve, GAP_MS));
    }
  }

  #announceChange(answer) {
    const now = performance.now();
    if (answer.label === this.#announced.label || now - this.#announced.timeMs < ANNOUNCEMENT_GAP_MS) return;
    announce(sentence(answer));
    this.#announced = { label: answer.label, timeMs: now };
  }
}
