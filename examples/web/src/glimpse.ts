// A client for pages: gRPC-Web over the browser's own `fetch`, through a proxy that turns it into gRPC.
// Nothing here is Node's, so a bundler can put it into a page.

import { Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";

import { ImageClassifier, type ImageResult } from "./generated/glimpse/v1/classifier_pb.js";
import { ErrorInfoSchema, RetryInfoSchema } from "./generated/google/rpc/error_details_pb.js";

const SECONDS = 60; // for a call with its repetitions
const ATTEMPTS = 5;

/** A request that was refused as a whole. */
export class Refused extends Error {
  constructor(
    /** The status, such as RESOURCE_EXHAUSTED. */
    readonly code: string,
    /** For programs to switch on, such as QUEUE_FULL; empty where the status is not the service's own. */
    readonly reason: string,
    message: string,
    /** Milliseconds after which a repetition may help; null: it does not. */
    readonly retryAfter: number | null,
  ) {
    super(message);
  }
}

/** Calls a server at the address of the proxy, such as https://glimpse.example.org. */
export class Glimpse {
  readonly #client;

  /** `token` is sent with each call, over https:// alone. */
  constructor(address: string, token?: string) {
    if (token && !address.startsWith("https://")) throw new Error("The token would travel readable. Use https://.");
    const show: Interceptor = (next) => (request) => {
      if (token) request.header.set("authorization", `Bearer ${token}`);
      return next(request);
    };
    this.#client = createClient(
      ImageClassifier,
      createGrpcWebTransport({ baseUrl: address, interceptors: [show] }),
    );
  }

  /** The best labels of a photo, the most probable first. An image that cannot be classified has `error` in its result. */
  async classify(encoded: Uint8Array<ArrayBuffer>, topK = 5): Promise<ImageResult> {
    const request = { images: [{ source: { case: "encoded" as const, value: encoded } }], options: { topK } };
    const end = Date.now() + SECONDS * 1000;
    for (let attempt = 1; ; attempt += 1) {
      try {
        const { results } = await this.#client.classify(request, { timeoutMs: Math.max(1, end - Date.now()) });
        return results[0]!;
      } catch (error) {
        const refused = refusal(ConnectError.from(error), attempt);
        const wait = refused.retryAfter;
        if (wait === null || attempt === ATTEMPTS || Date.now() + wait >= end) throw refused;
        await new Promise((resolve) => setTimeout(resolve, wait));
      }
    }
  }
}

function refusal(error: ConnectError, attempt: number): Refused {
  const info = error.findDetails(ErrorInfoSchema).find(({ domain }) => domain === "glimpse");
  const hint = error.findDetails(RetryInfoSchema)[0]?.retryDelay;
  // Without a hint of the server, a repetition helps where nobody has answered.
  const usual = error.code === Code.Unavailable ? 100 * 2 ** attempt : null;
  const retryAfter = hint ? Number(hint.seconds) * 1000 + hint.nanos / 1e6 : usual;
  return new Refused(nameOf(error.code), info?.reason ?? "", error.rawMessage, retryAfter);
}

/** A status code as gRPC's specification writes it: DEADLINE_EXCEEDED. */
export function nameOf(code: Code): string {
  return Code[code]!.replace(/(?<!^)(?=[A-Z])/g, "_").toUpperCase();
}
