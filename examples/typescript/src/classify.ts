// Classifies photos: `node dist/classify.js photo.jpg another.png` with a call for each file, `node dist/classify.js
// folder/` over one stream. Prints one JSON object an image. Exit code: 0, 1 an image has no answer, 2 there are none.

import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { type ServiceError, status } from "@grpc/grpc-js";

import { connect, reasonOf } from "./connection.js";
import type { ClassifyRequest } from "./generated/glimpse/v1/ClassifyRequest.js";
import type { ClassifyResponse__Output } from "./generated/glimpse/v1/ClassifyResponse.js";
import type { ClassifyStreamResponse__Output } from "./generated/glimpse/v1/ClassifyStreamResponse.js";
import type { ImageClassifierClient } from "./generated/glimpse/v1/ImageClassifier.js";
import type { ImageResult__Output } from "./generated/glimpse/v1/ImageResult.js";

const SECONDS = 60; // for a call, and without an answer on a stream
const IN_FLIGHT = 32; // requests of a stream
const ATTEMPTS = 5;
const PHOTO = /\.(bmp|gif|jpe?g|png|webp)$/i;

interface Trouble {
  code: number;
  reason: string;
  message: string;
}

let failed = 0;

function show(path: string, result: ImageResult__Output | null, trouble: Trouble | null = result?.error ?? null): void {
  if (trouble) failed += 1;
  const predictions = result?.predictions.map(({ label, index, probability }) => ({ label, index, probability })) ?? [];
  const error = trouble && { code: status[trouble.code], reason: trouble.reason, message: trouble.message };
  console.log(JSON.stringify({ path, predictions, error }));
}

/** The file, or nothing and a line that says why. */
function read(path: string): Buffer | null {
  try {
    return readFileSync(path);
  } catch (error) {
    show(path, null, { code: status.NOT_FOUND, reason: "CANNOT_READ", message: String(error) });
    return null;
  }
}

// More images would fit into a request: one each lets the first answer come first.
const ask = (encoded: Buffer): ClassifyRequest => ({ images: [{ encoded }], options: { topK: 5 } });

/** One call. An image that cannot be classified is no error: its result says so. */
function classify(client: ImageClassifierClient, encoded: Buffer): Promise<ClassifyResponse__Output> {
  return new Promise((resolve, reject) => {
    // gRPC repeats the call where that helps, until the deadline.
    const deadline = Date.now() + SECONDS * 1000;
    client.Classify(ask(encoded), { deadline }, (error, response) => (error ? reject(error) : resolve(response!)));
  });
}

/** All of a folder, over as many streams as it takes: what a broken one left unanswered goes to the next. */
async function classifyMany(client: ImageClassifierClient, paths: string[]): Promise<void> {
  const unanswered = new Set(paths);
  for (let fruitless = 0; unanswered.size; fruitless += 1) {
    const before = unanswered.size;
    try {
      await classifyStream(client, unanswered);
    } catch (error) {
      if (unanswered.size < before) fruitless = 0;
      if ((error as ServiceError).code !== status.UNAVAILABLE || fruitless + 1 === ATTEMPTS) throw error;
      await sleep(100 * 2 ** fruitless * (0.8 + 0.4 * Math.random()));
    }
  }
}

/** One stream; takes from `unanswered` what has its answer. */
function classifyStream(client: ImageClassifierClient, unanswered: Set<string>): Promise<void> {
  const call = client.ClassifyStream();
  const silence = setTimeout(() => call.cancel(), SECONDS * 1000);
  const ended = new Promise<void>((resolve, reject) => {
    const left = [...unanswered];
    const tries = new Map<string, number>(); // of those in flight

    function send(path: string): void {
      const encoded = read(path);
      if (!encoded) return done(path);
      tries.set(path, (tries.get(path) ?? 0) + 1);
      call.write({ id: path, request: ask(encoded) });
    }

    function done(path: string): void {
      tries.delete(path);
      unanswered.delete(path);
    }

    function fill(): void {
      while (tries.size < IN_FLIGHT && left.length) send(left.shift()!);
      if (!tries.size && !left.length) call.end();
    }

    call.on("data", ({ id, response, error }: ClassifyStreamResponse__Output) => {
      silence.refresh();
      if (error && error.retryAfterSeconds > 0 && tries.get(id)! < ATTEMPTS) {
        setTimeout(() => {
          if (!call.writable) return; // the next stream sends it
          send(id);
          fill();
        }, error.retryAfterSeconds * 1000);
        return; // it stays in flight
      }
      show(id, response?.results[0] ?? null, error ?? response?.results[0]?.error ?? null);
      done(id);
      fill();
    });
    call.on("error", reject);
    call.on("end", resolve);
    fill();
  });
  return ended.finally(() => clearTimeout(silence));
}

function photosIn(folder: string): string[] {
  const names = readdirSync(folder, { recursive: true, encoding: "utf-8" });
  return names.filter((name) => PHOTO.test(name)).map((name) => join(folder, name));
}

let client: ImageClassifierClient | undefined;
try {
  client = connect();
  const named = process.argv.slice(2);
  if (!named.length) throw new Error("Name photos or folders.");
  for (const path of named) {
    if (statSync(path, { throwIfNoEntry: false })?.isDirectory()) await classifyMany(client, photosIn(path).sort());
    else {
      const encoded = read(path);
      if (encoded) show(path, (await classify(client, encoded)).results[0]!);
    }
  }
  process.exitCode = failed ? 1 : 0;
} catch (error) {
  // The request as a whole: for instance QUEUE_FULL, MODEL_NOT_FOUND, TOKEN_MISSING, or nobody answers.
  const { code, details, message } = error as ServiceError;
  const reason = code ? [status[code], reasonOf(error as ServiceError)].filter(Boolean).join(" ") : "";
  console.error(reason ? `${reason}: ${details}` : message);
  process.exitCode = 2;
} finally {
  client?.close();
}
