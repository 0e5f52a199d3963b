/** The page: pictures in, answers out. */

import { showAbout, showName } from "./about.js";
import { openBundle } from "./bundle.js";
import { startEngine } from "./engine.js";
import { prepareOffline } from "./offline.js";
import { $, announce, notify, say, sentence } from "./page.js";
import { decoded } from "./picture.js";
import { Recogniser } from "./recogniser.js";
import { Card } from "./results.js";
import { Viewfinder } from "./viewfinder.js";

const base = new URL("bundle/", document.baseURI).href;

async function start() {
  if (!isSecureContext) {
    throw new Error("Browsers give camera, storage and checksums to pages from https:// or localhost only.");
  }
  const offline = await prepareOffline();
  say("busy", "Looking for the model…");
  const bundle = await openBundle(base, (done, total) => say("busy", `Fetching the model: ${done} of ${total} files`));
  showName(bundle);
  say("busy", "Testing the model on this device…");
  const engine = await startEngine(base, bundle.index);
  const recogniser = new Recogniser(engine.classifier, bundle.index.preprocess);
  notify(engine.refused.join(" "));
  showAbout(bundle, engine, offline);
  takePictures(recogniser, bundle.index.golden);
  say("ready", `Self-test passed · ${engine.backend}${offline ? " · works offline" : ""}`);
}

/** Opens every way for pictures to come in. */
function takePictures(recogniser, golden) {
  const classify = (entries) => classifyAll(recogniser, entries);
  const files = (list) => classify(Array.from(list, fromFile));
  new Viewfinder(recogniser, async (picture) => {
    const title = `Camera, ${new Date().toLocaleTimeString()}`;
    const [card] = await classify([{ title, open: async () => picture }]);
    card.element.focus();
  });
  showSamples(golden, recogniser.labels, classify);
  $("files").addEventListener("change", ({ target }) => {
    const chosen = [...target.files];
    target.value = ""; // so that the same file can be chosen again
    files(chosen);
  });
  addEventListener("paste", ({ clipboardData }) => files(clipboardData.files));
  takeDrops(files);
  for (const id of ["open-camera", "files"]) $(id).disabled = false;
}

const fromFile = (file) => ({ title: file.name || "Pasted picture", open: () => decoded(file) });

function takeDrops(files) {
  const mark = (over) => document.body.classList.toggle("dropping", over);
  addEventListener("dragover", (event) => {
    event.preventDefault();
    mark(true);
  });
  addEventListener("dragleave", ({ relatedTarget }) => relatedTarget ?? mark(false));
  addEventListener("drop", (event) => {
    event.preventDefault();
    mark(false);
    files(event.dataTransfer.files);
  });
}

function showSamples({ pngs, labels }, names, classify) {
  pngs.forEach((png, k) => {
    const [item, button, image] = ["li", "button", "img"].map((tag) => document.createElement(tag));
    const title = `Test image ${k + 1}${labels ? `: ${names[labels[k]]}` : ""}`;
    const open = async () => decoded(await (await fetch(base + png)).blob());
    image.src = base + png;
    image.alt = title;
    button.type = "button";
    button.addEventListener("click", () => classify([{ title, open }]));
    button.append(image);
    item.append(button);
    $("samples").append(item);
  });
  $("welcome").hidden = false;
}

/**
 * Shows a result for each entry, the newest entries on top, in their own order.
 *
 * @param {{title: string, open: () => Promise<ImageBitmap>}[]} entries
 */
async function classifyAll(recogniser, entries) {
  const list = $("list");
  const before = list.firstElementChild;
  const cards = entries.map(({ title }) => new Card(list, title, before));
  showResults(cards.length > 0 || before !== null);
  cards[0]?.element.scrollIntoView({ block: "nearest" });
  for (const [k, card] of cards.entries()) announce(`${card.title}: ${await classifyOne(recogniser, entries[k], card)}`);
  return cards;
}

async function classifyOne(recogniser, { open }, card) {
  try {
    const bitmap = await open();
    const size = { width: bitmap.width, height: bitmap.height };
    const result = await recogniser.recognise(bitmap, size);
    card.fill(bitmap, size, result, recogniser.preprocess);
    bitmap.close();
    return sentence(result.answers[0]);
  } catch (error) {
    card.fail(error);
    return error.message;
  }
}

function showResults(any) {
  $("results").hidden = !any;
  $("welcome").classList.toggle("short", any);
}

$("clear").addEventListener("click", () => {
  $("list").replaceChildren();
  showResults(false);
  $("open-camera").focus();
});
$("again").addEventListener("click", () => location.reload());

start().catch((error) => {
  console.error(error);
  say("failed", `No picture can be classified. ${error.message}`);
  $("again").hidden = false;
});
