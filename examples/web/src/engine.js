/** LiteRT.js with the bundle's own classifier, on the fastest backend that proves itself here. */

import * as LiteRt from "@litertjs/core";

const TIMED_RUNS = 5;

/**
 * Loads the classifier on each backend that there is, runs its self-test and times it. WebGPU wins with large models;
 * small ones are done on the processor before a GPU has begun.
 *
 * @param {string} base address of the bundle, with a slash at its end.
 * @param {object} index its `bundle.json`.
 * @returns {Promise<{backend: string, classifier: object, test: object, latencyMs: number, slower: object[],
 *     refused: string[]}>} `slower` are the others that passed; `refused` says why the rest may not be used.
 * @throws {Error} no backend passed: nothing may be classified.
 */
export async function startEngine(base, index) {
  const gpu = await hasGpu();
  // The build with JSPI can divide a model between WebGPU and WebAssembly; the others cannot wait for a GPU.
  await LiteRt.loadLiteRt(new URL(LITERT_FOLDER, document.baseURI).href, { jspi: gpu && "Suspending" in WebAssembly });
  const { Classifier } = await import(/* @vite-ignore */ base + index.code.javascript.entry);
  const [passed, refused] = [[], []];
  for (const [accelerator, name] of [["webgpu", "WebGPU"], ["wasm", "WebAssembly"]].slice(gpu ? 0 : 1)) {
    try {
      passed.push(await proven(Classifier, base, index, accelerator));
    } catch (error) {
      refused.push(`${name} is not used: ${sentence(error)}`);
    }
  }
  if (passed.length === 0) throw new Error(refused.join(" "));
  const [fastest, ...slower] = passed.sort((a, b) => a.latencyMs - b.latencyMs);
  for (const { classifier } of slower) classifier.delete();
  return { ...fastest, slower, refused };
}

async function hasGpu() {
  return Boolean(await navigator.gpu?.requestAdapter().catch(() => null));
}

async function proven(Classifier, base, { channels, preprocess: { height, width } }, accelerator) {
  let compiled;
  const loadAndCompile = async (...parts) => (compiled = await LiteRt.loadAndCompile(...parts));
  const classifier = await Classifier.load({ ...LiteRt, loadAndCompile }, base, { accelerator });
  try {
    const test = await classifier.selfTest();
    const latencyMs = await timed(() => classifier.probabilities(new Uint8Array(height * width * channels)));
    return { classifier, test, latencyMs, backend: backendName(compiled) };
  } catch (error) {
    classifier.delete();
    throw error;
  }
}

/** The median time of a task in milliseconds. */
async function timed(task) {
  const times = [];
  for (let run = 0; run < TIMED_RUNS; run++) {
    const started = performance.now();
    await task();
    times.push(performance.now() - started);
  }
  return times.sort((a, b) => a - b)[Math.floor(TIMED_RUNS / 2)];
}

/** What really computes: LiteRT.js takes WebAssembly for what a GPU cannot do. */
function backendName(compiled) {
  if (compiled.options.accelerator === "wasm") return "WebAssembly";
  return compiled.isFullyAccelerated ? "WebGPU" : "WebGPU and WebAssembly";
}

function sentence(error) {
  const text = String(error?.message ?? error).trim();
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
