import { Buffer } from "node:buffer";
// The pinned Solidity compiler as a command, run by Deno: --version, or --standard-json on standard input.
// All sources are in the input, so the compiler reads no file.
import process from "node:process";
import wrapper from "solc";

const solc = wrapper.default ?? wrapper;

async function readAll(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks).toString("utf8");
}

const args = process.argv.slice(2);
if (args.includes("--version")) {
  console.log("solc, the solidity compiler commandline interface");
  console.log(`Version: ${solc.version()}`);
} else if (args.includes("--standard-json")) {
  process.stdout.write(solc.compile(await readAll(process.stdin)));
} else {
  console.error("usage: solc --version | --standard-json < input.json");
  process.exit(2);
}
