/**
 * Readies LiteRT.js, once a page.
 *
 * @param {object} litert the module `@litertjs/core`.
 * @param {string} wasmUrl the folder `wasm` of its package.
 */
export async function start(litert, wasmUrl) {
  await litert.loadLiteRt(wasmUrl);
  return litert;
}

class Runtime {
  static async load(litert, bytes, accelerator) {
    const runtime = new Runtime();
    runtime.litert = litert;
    runtime.model = await litert.loadAndCompile(bytes, { accelerator });
    return runtime;
  }

  async run(pixels) {
    const { height, width, channels } = PREPROCESS;
    const values = MODEL.input.type === "uint8" ? pixels : Float32Array.from(pixels);
    const image = new this.litert.Tensor(values, [1, height, width, channels]);
    const [output] = await this.model.run(image);
    try {
      return (await output.data()).slice();
    } finally {
      image.delete();
      output.delete();
    }
  }

  delete() {
    this.model.delete();
  }
}
