/* Keeps the app for use without a network. The build writes one line above this: BUILD, which is {version, files, litert}.

   Three kinds of caches, named with this app's address, because caches are shared by all that one host serves:
   - `app VERSION`: the page, its code and icons, stored at installation, answered from the cache;
   - `litert-VERSION`: the one build of LiteRT.js that this browser chose, stored when it is first fetched;
   - `bundle SHA256`: the model and what belongs to it, stored and checked by the page (see bundle.js). */

const prefix = `${self.registration.scope} `;
const appCache = `${prefix}app ${BUILD.version}`;
const litertCache = `${prefix}${BUILD.litert}`;

self.addEventListener("install", (event) => {
  const requests = BUILD.files.map((file) => new Request(file, { cache: "reload" }));
  event.waitUntil(caches.open(appCache).then((cache) => cache.addAll(requests)));
  self.skipWaiting();
});

self.addEventListener("activate", (event) => event.waitUntil(removeOldCaches().then(() => self.clients.claim())));

// A page that was reloaded past its caches has no worker until it asks for one.
self.addEventListener("message", (event) => event.data === "claim" && event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const inside = request.url.startsWith(self.registration.scope);
  // What asks for "no-store" wants the network's answer: it looks for a new bundle.
  if (request.method === "GET" && inside && request.cache !== "no-store") event.respondWith(answer(request));
});

async function answer(request) {
  const path = new URL(request.url).pathname.slice(new URL(self.registration.scope).pathname.length);
  if (path.startsWith(`${BUILD.litert}/`)) return keep(request);
  const cacheName = path.startsWith("bundle/") ? await bundleCache() : appCache;
  const wanted = path === "" ? `${self.registration.scope}index.html` : request;
  const found = cacheName && (await caches.match(wanted, { cacheName, ignoreVary: true }));
  return found ?? fetch(request);
}

async function keep(request) {
  const cache = await caches.open(litertCache);
  const found = await cache.match(request, { ignoreVary: true });
  if (found) return found;
  const response = await fetch(request);
  if (response.status === 200) await cache.put(request, response.clone());
  return response;
}

async function bundleCache() {
  return (await caches.keys()).find((name) => name.startsWith(`${prefix}bundle `));
}

async function removeOldCaches() {
  const current = [appCache, litertCache];
  const old = (name) => name.startsWith(prefix) && !name.startsWith(`${prefix}bundle `) && !current.includes(name);
  await Promise.all((await caches.keys()).filter(old).map((name) => caches.delete(name)));
}
