/** The camera of the device. */

const REASONS = {
  NotAllowedError: "The camera may not be used here. Allow it for this page in the browser's settings.",
  NotFoundError: "There is no camera.",
  NotReadableError: "The camera is in use by something else.",
};

export class Camera {
  #stream = null;
  #facing = "environment";

  /** @param {HTMLVideoElement} video shows what the camera sees. */
  constructor(video) {
    this.video = video;
  }

  get open() {
    return this.#stream !== null;
  }

  /** @throws {Error} with the reason, where there is no camera to be had. */
  async start() {
    if (!navigator.mediaDevices) {
      throw new Error("This browser gives no camera to the page: it needs https:// or localhost.");
    }
    const video = { facingMode: { ideal: this.#facing }, width: { ideal: 1280 }, height: { ideal: 720 } };
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia({ video, audio: false });
    } catch (error) {
      throw new Error(REASONS[error.name] ?? `The camera does not start: ${error.message || error.name}.`);
    }
    this.video.srcObject = this.#stream;
    this.video.classList.toggle("mirrored", this.#facing === "user");
    await this.video.play();
  }

  stop() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = null;
    this.video.srcObject = null;
  }

  /** Takes the camera on the other side of the device. */
  async turn() {
    this.#facing = this.#facing === "user" ? "environment" : "user";
    this.stop();
    await this.start();
  }

  /** Whether there are two to choose from; known only while one is open. */
  async hasOther() {
    const devices = await navigator.mediaDevices.enumerateDevices();
    return devices.filter((device) => device.kind === "videoinput").length > 1;
  }
}
