/** The bundle: fetched once, checked by its sums, kept for use without a network, replaced when the server has another. */

const SUMS = "SHA256SUMS";
const PATIENCE_MS = 5000; // for the first word of the network, where a stored bundle could be used instead

/**
 * @param {string} base address of the bundle, with a slash at its end.
 * @param {(done: number, total: number) => void} progress called while files are fetched.
 * @returns {Promise<{index: object, model: object}>} `bundle.json`, and its entry of the model that runs here.
 * @throws {Error} there is no bundle, it has no model for browsers, or a file is not the one that was exported.
 */
export async function openBundle(base, progress) {
  const prefix = `${new URL(".", location.href).href} bundle `;
  const kept = (await caches.keys()).filter((name) => name.startsWith(prefix));
  const complete = (await Promise.all(kept.map(isComplete(base)))).flatMap((yes, k) => (yes ? [kept[k]] : []));

  const sums = await currentSums(base, complete.length > 0);
  const name = sums === null ? complete[0] : prefix + (await sha256(sums));
  const cache = await caches.open(name);
  if (!complete.includes(name)) await download(base, sums, cache, progress);
  await Promise.all(kept.filter((other) => other !== name).map((other) => caches.delete(other)));

  const index = await (await cache.match(base + "bundle.json")).json();
  return { index, model: modelOf(index) };
}

// The sums are stored last.
const isComplete = (base) => async (name) => Boolean(await (await caches.open(name)).match(base + SUMS));

/** The server's list of sums as bytes, or null where it cannot be had and `optional`. */
async function currentSums(base, optional) {
  try {
    const signal = optional ? AbortSignal.timeout(PATIENCE_MS) : undefined;
    return await fetched(base + SUMS, { signal });
  } catch (error) {
    if (optional && !(error instanceof Refusal)) return null;
    throw error;
  }
}

async function download(base, sums, cache, progress) {
  const expected = new Map(parse(sums));
  const indexBytes = await checked(base, "bundle.json", expected);
  const names = needed(JSON.parse(new TextDecoder().decode(indexBytes)), [...expected.keys()]);
  let done = 0;
  // All come to their end, so that none reports progress after another's failure.
  const outcomes = await Promise.allSettled(
    names.map(async (name) => {
      const bytes = await checked(base, name, expected);
      await cache.put(base + name, new Response(bytes, { headers: { "Content-Type": contentType(name) } }));
      progress(++done, names.length);
    }),
  );
  const failed = outcomes.find(({ status }) => status === "rejected");
  if (failed) throw failed.reason;
  await cache.put(base + SUMS, new Response(sums));
}

/** Of all files those that this page uses: no models and no code for others. */
function needed(index, names) {
  const { file, record } = modelOf(index);
  const folders = ["golden/", "code/javascript/"];
  const files = ["bundle.json", index.labels, file, record];
  return names.filter((name) => files.includes(name) || folders.some((folder) => name.startsWith(folder)));
}

function modelOf(index) {
  const file = index.code.javascript?.model;
  if (!file?.endsWith(".tflite")) {
    throw new Error("The bundle has no model that LiteRT.js takes. Export it with --target web.");
  }
  return index.models.find((model) => model.file === file);
}

async function checked(base, name, expected) {
  const bytes = await fetched(base + name);
  const found = await sha256(bytes);
  if (found === expected.get(name)) return bytes;
  throw new Error(
    `${name} is not the file that was exported: its SHA-256 is ${found.slice(0, 12)}…, ` +
      `expected ${expected.get(name)?.slice(0, 12)}…. Copy the bundle again.`,
  );
}

class Refusal extends Error {}

async function fetched(address, options) {
  const response = await fetch(address, { cache: "no-store", ...options });
  if (!response.ok) throw new Refusal(`${address} cannot be had: ${response.status} ${response.statusText}.`);
  return new Uint8Array(await response.arrayBuffer());
}

function parse(sums) {
  const lines = new TextDecoder().decode(sums).trim().split("\n");
  return lines.map((line) => [line.slice(66), line.slice(0, 64)]);
}

async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function contentType(name) {
  const types = { js: "text/javascript", json: "application/json", png: "image/png" };
  return types[name.split(".").at(-1)] ?? "application/octet-stream";
}
