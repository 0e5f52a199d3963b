/** Installs the service worker, which keeps the app for use without a network. */

const PATIENCE_MS = 10_000;

/** @returns {Promise<boolean>} whether the worker now answers for the network. */
export async function prepareOffline() {
  const container = navigator.serviceWorker;
  if (!import.meta.env.PROD || !container) return false;
  const worker = new Promise((resolve) => container.addEventListener("controllerchange", resolve, { once: true }));
  try {
    await container.register("service_worker.js", { updateViaCache: "none" });
  } catch {
    return false; // a private window, for instance; the page then says that it needs the network
  }
  if (!container.controller) {
    container.ready.then(({ active }) => active.postMessage("claim"));
    await Promise.race([worker, new Promise((resolve) => setTimeout(resolve, PATIENCE_MS))]);
  }
  return Boolean(container.controller);
}
