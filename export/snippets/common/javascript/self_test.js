/**
 * Runs the self-test and says in the page, in its title and in the console how it went.
 *
 * @param {string} name the runtime, as the page's import map knows it.
 * @param {string} folder where it keeps its parts, relative to the page.
 */
export async function showSelfTest(name, folder) {
  const result = await selfTest(name, folder).catch((error) => `failed: ${error.message ?? error}`);
  document.querySelector("p").textContent = result;
  document.title = result;
  console.log(result);
}

async function selfTest(name, folder) {
  const library = await import(name).catch(() => {
    throw new Error(`${name} is missing. Run npm install in the folder of this page.`);
  });
  const { Classifier, start } = await import("./classifier.js");
  await start(library, new URL(folder, location.href).href);
  const accelerator = new URLSearchParams(location.search).get("accelerator") ?? undefined;
  const classifier = await Classifier.load(library, new URL("../../", location.href), { accelerator });
  const { images, largestDifference, tolerance } = await classifier.selfTest();
  classifier.delete();
  return `passed: ${images} images, largest difference ${largestDifference.toExponential(1)}, allowed ${tolerance}`;
}
