// Bundle the script and the style into the package, with the licences of all that is bundled.
// node build.mjs [FOLDER]; by default the folder that ships.
import { mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = path.dirname(fileURLToPath(import.meta.url));
const target = process.argv[2] ?? path.join(here, "../robustbench_dyn/reporting/page/static");

const common = {
  absWorkingDir: here,
  bundle: true,
  minify: true,
  charset: "utf8",
  legalComments: "none",
  target: ["chrome123", "firefox125", "safari17.5"],
  write: false,
  metafile: true,
  logLevel: "warning",
};

/** The packages whose code is in a bundle, from esbuild's list of inputs. */
function packages(metafile) {
  const found = new Set();
  for (const [output, { inputs }] of Object.entries(metafile.outputs)) {
    if (!output.endsWith(".js")) continue;
    for (const [input, { bytesInOutput }] of Object.entries(inputs)) {
      const match = input.match(/node_modules\/((?:@[^/]+\/)?[^/]+)\//g);
      if (match && bytesInOutput > 0) found.add(match.at(-1).slice("node_modules/".length, -1));
    }
  }
  return [...found].sort();
}

async function licence(name) {
  const folder = path.join(here, "node_modules", name);
  const about = JSON.parse(await readFile(path.join(folder, "package.json"), "utf8"));
  const files = await readdir(folder);
  const file = files.sort().find((one) => /^licen[cs]e/i.test(one));
  const text = file ? await readFile(path.join(folder, file), "utf8") : `License: ${about.license}\n`;
  return `${name} ${about.version} (${about.license})\n\n${text.trim()}\n`;
}

const script = (name) => ({ ...common, entryPoints: [`src/${name}`], format: "iife", outdir: "out" });
const results = [
  await build(script("site.js")),
  await build(script("theme.js")),
  await build({ ...common, entryPoints: ["src/site.css"], outdir: "out" }),
];
await mkdir(target, { recursive: true });
for (const { outputFiles } of results) {
  for (const { path: name, text } of outputFiles) {
    await writeFile(path.join(target, path.basename(name)), text);
  }
}
const names = [...new Set(results.flatMap(({ metafile }) => packages(metafile)))].sort();
const licences = await Promise.all(names.map(licence));
const line = `${"-".repeat(78)}\n`;
await writeFile(
  path.join(target, "LICENSES.txt"),
  `site.js holds code of these packages.\n\n${line}${licences.join(`\n${line}`)}`,
);
