import { createHash } from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const here = path.dirname(fileURLToPath(import.meta.url));
const litertPackage = path.join(here, "node_modules/@litertjs/core");
const litertVersion = JSON.parse(fs.readFileSync(path.join(litertPackage, "package.json"))).version;
// The version in the path lets browsers keep the files for ever. The build with threads is left out: it would need
// response headers that many hosts cannot set.
const litertFolder = `litert-${litertVersion}`;
const litertFiles = ["litert_wasm", "litert_wasm_compat", "litert_wasm_jspi"].flatMap((name) => [
  `${name}_internal.js`,
  `${name}_internal.wasm`,
]);

// npm changes into this folder; a path is meant from where the user stands.
const bundle = process.env.BUNDLE && path.resolve(process.env.INIT_CWD ?? ".", process.env.BUNDLE);
if (bundle && !fs.existsSync(path.join(bundle, "bundle.json"))) {
  throw new Error(`BUNDLE must name a folder made by python -m export.tflite --bundle. Received: ${bundle}.`);
}

export default defineConfig({
  base: "./", // runs at any address
  define: {
    LITERT_FOLDER: JSON.stringify(`${litertFolder}/`),
    LITERT_VERSION: JSON.stringify(litertVersion),
  },
  build: { target: "es2022", modulePreload: { polyfill: false } },
  plugins: [litert(), mountedBundle(), contentSecurityPolicy(), serviceWorker()],
});

/** The runtime's files, unchanged: it finds them by their names. */
function litert() {
  const source = (name) => path.join(litertPackage, "wasm", name);
  return {
    name: "litert",
    configureServer: (server) => mount(server, `/${litertFolder}/`, (name) => litertFiles.includes(name) && source(name)),
    generateBundle() {
      for (const name of litertFiles) {
        this.emitFile({ type: "asset", fileName: `${litertFolder}/${name}`, source: fs.readFileSync(source(name)) });
      }
    },
  };
}

/** The bundle at `bundle/`: served in development, copied into a build if there is one. */
function mountedBundle() {
  return {
    name: "bundle",
    configureServer(server) {
      if (!bundle) throw new Error("Name the model's bundle: BUNDLE=folder npm run dev");
      mount(server, "/bundle/", (name) => path.join(bundle, path.posix.join("/", name)));
    },
    writeBundle({ dir }) {
      if (bundle) fs.cpSync(bundle, path.join(dir, "bundle"), { recursive: true });
    },
  };
}

/** Answers with the files that `find` knows, before Vite can change them. */
function mount(server, prefix, find) {
  const types = { ".js": "text/javascript", ".json": "application/json", ".png": "image/png", ".wasm": "application/wasm" };
  server.middlewares.use(prefix, (request, response) => {
    const file = find(decodeURIComponent(new URL(request.url, "http://localhost").pathname.slice(1)));
    if (!file || !fs.statSync(file, { throwIfNoEntry: false })?.isFile()) {
      response.writeHead(404).end();
      return;
    }
    const type = types[path.extname(file)] ?? "application/octet-stream";
    response.writeHead(200, { "Content-Type": type, "Cache-Control": "no-store" });
    fs.createReadStream(file).pipe(response);
  });
}

/** Pictures cannot leave the device: the built page may talk to its own address only. */
function contentSecurityPolicy() {
  const content = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' blob:; object-src 'none'";
  return {
    name: "content-security-policy",
    apply: "build",
    transformIndexHtml: () => [
      { tag: "meta", attrs: { "http-equiv": "Content-Security-Policy", content }, injectTo: "head-prepend" },
    ],
  };
}

/** The service worker, which is told every file of the build and has another version whenever one of them changes. */
function serviceWorker() {
  return {
    name: "service-worker",
    apply: "build",
    generateBundle: {
      order: "post",
      handler(_, output) {
        const built = Object.values(output).filter((file) => !file.fileName.startsWith(litertFolder));
        const parts = built.map((file) => [file.fileName, file.code ?? file.source]);
        const publicFolder = path.join(here, "public");
        parts.push(...fs.readdirSync(publicFolder).map((name) => [name, fs.readFileSync(path.join(publicFolder, name))]));
        const hash = createHash("sha256");
        for (const [name, content] of parts.sort()) hash.update(name).update(content);
        const facts = {
          version: hash.digest("hex").slice(0, 16),
          files: parts.map(([name]) => name),
          litert: litertFolder,
        };
        const source = fs.readFileSync(path.join(here, "src/service_worker.js"), "utf8");
        this.emitFile({
          type: "asset",
          fileName: "service_worker.js",
          source: `const BUILD = ${JSON.stringify(facts)};\n${source}`,
        });
      },
    },
  };
}
