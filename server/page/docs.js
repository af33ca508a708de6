// The page of the API, made from the OpenAPI document of this server.

import { find, make } from "./elements.js";
import { switchTheme } from "./theme.js";

function typed(schema, depth = 0) {
  if (schema.$ref) {
    return schema.$ref.split("/").pop();
  }
  if (schema.type === "array") {
    return `[${typed(schema.items, depth)}]`;
  }
  if (schema.type === "object" && schema.properties) {
    const inside = "  ".repeat(depth + 1);
    const lines = Object.entries(schema.properties).map(([name, each]) => `${inside}${name}: ${typed(each, depth + 1)}`);
    return `{\n${lines.join("\n")}\n${"  ".repeat(depth)}}`;
  }
  if (schema.contentEncoding) {
    return schema.contentEncoding;
  }
  return schema.format || schema.type || "any";
}

function content(title, kinds) {
  return Object.entries(kinds ?? {}).flatMap(([kind, { schema }]) => [
    make("p", {}, `${title}, `, make("code", {}, kind), ":"),
    make("pre", { tabIndex: 0 }, typed(schema)),
  ]);
}

function operation(path, verb, what) {
  const parameters = what.parameters.map((each) => `${each.name} (${each.in})`).join(", ");
  const refusals = Object.entries(what.responses).filter(([status]) => status !== "200");
  return make(
    "section",
    { className: "api" },
    make("h2", {}, make("span", { className: "verb" }, verb.toUpperCase()), " ", make("code", {}, path)),
    make("p", {}, what.summary),
    ...(parameters ? [make("p", {}, `Parameters: ${parameters}`)] : []),
    ...content("Request", what.requestBody?.content),
    ...content("Answer", what.responses["200"].content),
    ...(refusals.length ? [make("p", {}, `Refusals: ${refusals.map(([status]) => status).join(", ")}`)] : []),
  );
}

switchTheme(find("theme"));
try {
  const found = await (await fetch("openapi.json")).json();
  const paths = Object.entries(found.paths).flatMap(([path, verbs]) =>
    Object.entries(verbs).map(([verb, what]) => operation(path, verb, what)),
  );
  const schemas = Object.entries(found.components.schemas).map(([name, schema]) =>
    make("section", { className: "api" }, make("h2", {}, name), make("pre", { tabIndex: 0 }, typed(schema))),
  );
  find("paths").append(...paths, ...schemas);
} catch {
  find("paths").append(make("p", { className: "problem" }, "The server does not answer. Reload the page."));
}
