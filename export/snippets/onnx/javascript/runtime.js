/**
 * Readies ONNX Runtime Web, once a page.
 *
 * @param {object} ort the module `onnxruntime-web`.
 * @param {string} wasmUrl the folder `dist` of its package.
 */
export async function start(ort, wasmUrl) {
  ort.env.wasm.wasmPaths = wasmUrl;
  return ort;
}

class Runtime {
  static async load(ort, bytes, accelerator) {
    const runtime = new Runtime();
    runtime.ort = ort;
    runtime.session = await ort.InferenceSession.create(bytes, { executionProviders: [accelerator] });
    return runtime;
  }

  async run(pixels) {
    const { height, width, channels } = PREPROCESS;
    const first = @@CHANNELS_FIRST@@;
    const image = first
      ? new this.ort.Tensor("@@INPUT_TYPE@@", planes(pixels, channels), [1, channels, height, width])
      : new this.ort.Tensor("@@INPUT_TYPE@@", Float32Array.from(pixels), [1, height, width, channels]);
    const outputs = await this.session.run({ [MODEL.input.name]: image });
    return outputs[MODEL.output.name].getData();
  }

  delete() {
    this.session.release();
  }
}

/** Channel after channel, as the file wants them. */
function planes(pixels, channels) {
  const size = pixels.length / channels;
  return Float32Array.from(pixels, (_, k) => pixels[(k % size) * channels + Math.floor(k / size)]);
}
