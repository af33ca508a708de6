// The same client in Node.js, to try it: `node dist/classify.js photo.jpg another.png`. Prints one JSON object an image.
// Exit code: 0, 1 an image has no answer, 2 there are none.

import { readFileSync } from "node:fs";

import { Glimpse, nameOf, Refused } from "./glimpse.js";

const { GLIMPSE_TARGET: target = "http://localhost:8080", GLIMPSE_TOKEN: token } = process.env;

try {
  if (process.argv.length < 3) throw new Error("Name photos.");
  const glimpse = new Glimpse(target, token);
  for (const path of process.argv.slice(2)) {
    const result = await glimpse.classify(new Uint8Array(readFileSync(path)));
    const predictions = result.predictions.map(({ label, index, probability }) => ({ label, index, probability }));
    const { code, reason, message } = result.error ?? {};
    console.log(JSON.stringify({ path, predictions, error: code ? { code: nameOf(code), reason, message } : null }));
    if (result.error) process.exitCode = 1;
  }
} catch (error) {
  const { code, reason, message } = error as Refused;
  console.error(error instanceof Refused ? `${[code, reason].filter(Boolean).join(" ")}: ${message}` : message);
  process.exitCode = 2;
}
