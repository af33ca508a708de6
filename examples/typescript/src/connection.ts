// How to reach a server: its address, TLS, a token, retries; and what its refusals mean.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import * as grpc from "@grpc/grpc-js";
import { loadSync, type MessageTypeDefinition } from "@grpc/proto-loader";

import type { ProtoGrpcType } from "./generated/classifier.js";
import type { ErrorInfo__Output } from "./generated/google/rpc/ErrorInfo.js";
import type { Status__Output } from "./generated/google/rpc/Status.js";
import type { ImageClassifierClient } from "./generated/glimpse/v1/ImageClassifier.js";

// The server's own default limit; gRPC's would refuse many a phone's photo.
const MAX_MESSAGE_BYTES = 16 * 1024 * 1024;

const SERVICE_CONFIG = {
  // A name with several addresses: calls take turns between them.
  loadBalancingConfig: [{ round_robin: {} }],
  methodConfig: [
    // Without a policy of its own: classify.ts knows better which images of a stream have no answer yet.
    { name: [{ service: "glimpse.v1.ImageClassifier", method: "ClassifyStream" }] },
    {
      name: [{ service: "glimpse.v1.ImageClassifier" }],
      retryPolicy: {
        maxAttempts: 5,
        initialBackoff: "0.1s",
        maxBackoff: "1s",
        backoffMultiplier: 2,
        // A full server says when to come back (`grpc-retry-pushback-ms`); gRPC then waits for so long instead.
        retryableStatusCodes: ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
      },
    },
  ],
};

const proto = (path: string) => fileURLToPath(new URL(path, import.meta.url));
const packages = loadSync([proto("../../../proto/glimpse/v1/classifier.proto"), proto("../proto/status.proto")], {
  longs: Number,
  enums: String,
  defaults: true,
  oneofs: true,
});
const { glimpse } = grpc.loadPackageDefinition(packages) as unknown as ProtoGrpcType;
const Status = packages["google.rpc.Status"] as MessageTypeDefinition<object, Status__Output>;
const ErrorInfo = packages["google.rpc.ErrorInfo"] as MessageTypeDefinition<object, ErrorInfo__Output>;

/** A client as the environment describes it: GLIMPSE_TARGET, GLIMPSE_TLS, GLIMPSE_TLS_CA, GLIMPSE_TOKEN. */
export function connect(environment = process.env): ImageClassifierClient {
  const target = environment.GLIMPSE_TARGET || "localhost:50051";
  const { GLIMPSE_TLS: tls, GLIMPSE_TLS_CA: authorities, GLIMPSE_TOKEN: token } = environment;
  let credentials = grpc.credentials.createInsecure();
  if (tls || authorities) {
    credentials = grpc.credentials.createSsl(authorities ? readFileSync(authorities) : null);
    if (token) {
      const show = grpc.credentials.createFromMetadataGenerator((_, done) => done(null, bearer(token)));
      credentials = grpc.credentials.combineChannelCredentials(credentials, show);
    }
  } else if (token) {
    throw new Error("GLIMPSE_TOKEN would travel readable for everyone. Set GLIMPSE_TLS=1 or GLIMPSE_TLS_CA.");
  }
  return new glimpse.v1.ImageClassifier(target, credentials, {
    "grpc.service_config": JSON.stringify(SERVICE_CONFIG),
    "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
    "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
    // A call that is repeated has to be kept meanwhile.
    "grpc.per_rpc_retry_buffer_size": MAX_MESSAGE_BYTES,
  });
}

function bearer(token: string): grpc.Metadata {
  const metadata = new grpc.Metadata();
  metadata.set("authorization", `Bearer ${token}`);
  return metadata;
}

/** The reason of a refused call, for programs to switch on; empty where the status is not the service's own. */
export function reasonOf(error: grpc.ServiceError): string {
  const [packed] = error.metadata?.get("grpc-status-details-bin") ?? [];
  if (!(packed instanceof Buffer)) return "";
  for (const detail of Status.deserialize(packed).details) {
    if (!detail.typeUrl.endsWith("/google.rpc.ErrorInfo")) continue;
    const info = ErrorInfo.deserialize(detail.value as Buffer);
    if (info.domain === "glimpse") return info.reason;
  }
  return "";
}
