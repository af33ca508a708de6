// The page: sends photos to this server, and shows what it answers. Nothing is asked of anybody else.

import { find, make } from "./elements.js";
import { overlay } from "./overlay.js";
import { switchTheme } from "./theme.js";

const AT_ONCE = 2; // photos on their way
const TRIES = 4; // of a photo that the server has no room for
const STAGES = {
  receive: "Receiving",
  admission: "Admission",
  decode_wait: "Waiting for a decoder",
  decode: "Decoding",
  pre_stem: "Preprocessing",
  queue: "Waiting for the device",
  compute: "Network",
  reply: "Reply",
};

let token = "";
let model = ""; // the one that is chosen
let asking = null; // the dialog for a token, while it is open
const waiting = []; // cards of photos that are not sent yet
let running = 0;

class Refusal extends Error {
  constructor(status, content) {
    super(content.error || `The server answered with status ${status}.`);
    this.status = status;
    this.again = content.retry_after_seconds;
  }
}

async function call(path, options = {}) {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch {
    throw new Error("The server does not answer.");
  }
  const content = await response.json().catch(() => ({}));
  if (response.status === 401 && (await askForToken())) {
    return call(path, options);
  }
  if (!response.ok) {
    throw new Refusal(response.status, content);
  }
  return content;
}

function askForToken() {
  asking ??= new Promise((resolve) => {
    const dialog = find("ask");
    dialog.addEventListener(
      "close",
      () => {
        asking = null;
        token = dialog.returnValue === "use" ? find("token").value.trim() : "";
        resolve(token !== "");
      },
      { once: true },
    );
    dialog.returnValue = "";
    dialog.showModal();
  });
  return asking;
}

function say(problem) {
  find("problem").textContent = problem;
  find("problem").hidden = !problem;
}

// Photos.

function add(files) {
  const photos = [...files].filter((file) => file.type.startsWith("image/") || !file.type);
  say(photos.length < files.length ? "Some files are no photos, and were left out." : "");
  for (const file of photos) {
    const image = make("img", { alt: "", src: URL.createObjectURL(file) });
    image.addEventListener("error", () => image.remove(), { once: true }); // of a format that only the server reads
    const text = make("div", {}, make("h3", {}, file.name || "Photo"), make("p", { className: "wait" }, "Waiting …"));
    const element = make("li", { className: "card" }, image, text);
    find("results").prepend(element);
    waiting.push({ file, image, text, model, top: find("top").value, why: find("why").checked });
  }
  next();
}

function next() {
  while (running < AT_ONCE && waiting.length) {
    running += 1;
    classify(waiting.shift()).finally(() => {
      running -= 1;
      next();
    });
  }
}

async function classify(card) {
  const name = card.file.name || "Photo";
  try {
    const query = new URLSearchParams({ model: card.model, top_k: card.top, ...(card.why && { explain: "auto" }) });
    const begun = performance.now();
    const answer = await patiently(() => call(`classify?${query}`, { method: "POST", body: card.file }));
    show(card, answer.results[0], performance.now() - begun);
    const [best] = answer.results[0].predictions.filter((each) => each.over_threshold !== false);
    find("news").textContent = best ? `${name}: ${best.label}, ${percent(best.probability)}` : name;
  } catch (error) {
    card.text.querySelector(".wait").replaceWith(make("p", { className: "problem" }, error.message));
    find("news").textContent = `${name}: ${error.message}`;
  }
}

async function patiently(work) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await work();
    } catch (error) {
      if (error.again === undefined || tries === TRIES) {
        throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, 1000 * error.again));
    }
  }
}

function show(card, result, milliseconds) {
  const labels = result.predictions.map((each) => {
    const bar = make("span", { className: "bar" });
    bar.style.width = `${100 * each.probability}%`;
    const label = make("span", {}, each.label);
    if (each.class_id) {
      label.title = each.class_id;
    }
    const share = make("span", { className: "share" }, percent(each.probability));
    const item = make("li", {}, bar, label, share);
    if (each.over_threshold === false) {
      item.className = "below";
      item.title = "Below the threshold of this label: the photo is not taken to show it.";
      label.append(make("span", { className: "verdict" }, " (below its threshold)"));
    }
    return item;
  });
  const { novelty } = result;
  const unknown =
    novelty && !novelty.known
      ? [make("p", { className: "problem" }, `None of these (novelty ${novelty.score.toPrecision(3)}, threshold ${novelty.threshold.toPrecision(3)}).`)]
      : [];
  const { explanation } = result;
  card.text.querySelector(".wait").replaceWith(
    ...unknown,
    make("ol", { className: "labels", ariaLabel: "Labels, the most probable first" }, ...labels),
    ...(explanation ? [make("p", { className: "hint" }, `Bright: where ${explanation.label} was seen. Dark: not seen.`)] : []),
    times(result.timing, milliseconds),
  );
  if (explanation) {
    overlay(card.image, explanation);
  }
}

function times(timing, milliseconds) {
  const stages = Object.entries(STAGES).map(([name, title]) => [name, title, 1000 * timing[`${name}_seconds`]]);
  const total = stages.reduce((sum, [, , time]) => sum + time, 0);
  const stack = make("div", { className: "stack", ariaHidden: "true" });
  const legend = make("ul", { className: "legend" });
  for (const [name, title, time] of stages) {
    const part = make("span", { className: name });
    part.style.width = `${(100 * time) / (total || 1)}%`;
    stack.append(part);
    legend.append(
      make(
        "li",
        {},
        make("span", { className: `key ${name}`, ariaHidden: "true" }),
        title,
        make("span", { className: "time" }, `${time.toFixed(1)} ms`),
      ),
    );
  }
  const summary = `${total.toFixed(0)} ms in the server, ${milliseconds.toFixed(0)} ms with the way there and back`;
  return make("details", { className: "times" }, make("summary", {}, summary), stack, legend);
}

function percent(share) {
  return `${(100 * share).toFixed(1)}%`;
}

// The model.

async function describe() {
  const found = await call(`describe?${new URLSearchParams({ model })}`);
  const { input, runtime, pre_stem: recipe, limits } = found;
  const facts = {
    Name: `${found.model.name}, version ${found.model.version}`,
    Weights: found.model.weights_digest,
    Architecture: [found.architecture, found.variant].filter(Boolean).join(", "),
    Paper: found.paper,
    Classes: found.classes.length.toLocaleString("en"),
    Parameters: found.parameters.toLocaleString("en"),
    Input: `${input.height} × ${input.width}, ${recipe.channels}`,
    Preprocessing: `${recipe.geometry}, ${recipe.filter}`,
    Calibration: found.temperature === 1 ? "none" : `temperature ${found.temperature.toPrecision(3)}`,
    Runtime: `${runtime.name}, ${runtime.device}, ${runtime.precision}`,
    "Largest photo": `${(limits.max_image_bytes / 2 ** 20).toFixed(0)} MiB, ${(limits.max_image_pixels / 1e6).toFixed(0)} megapixels`,
  };
  find("facts").replaceChildren(
    ...Object.entries(facts)
      .filter(([, value]) => value)
      .flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]),
  );
  find("stages").replaceChildren(
    ...found.stages.map((stage) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, stage.name),
        make("td", {}, stage.block),
        ...[
          stage.repeats,
          stage.output_shape.join(" × "),
          stage.parameters.toLocaleString("en"),
          stage.multiply_adds.toLocaleString("en"),
        ].map((value) => make("td", { className: "number" }, String(value))),
      ),
    ),
  );
  const top = find("top");
  top.max = found.classes.length;
  top.value = Math.min(top.value || 5, found.classes.length);
}

async function begin() {
  try {
    const { models } = await call("v1/models");
    const choice = find("model");
    choice.replaceChildren(...models.map((name) => make("option", { value: name }, name)));
    model = choice.value;
    choice.disabled = false;
    await describe();
    find("state").textContent = model ? "Ready" : "Loading …";
    say("");
  } catch (error) {
    find("state").textContent = "Not ready";
    say(error.message);
    if (error.status !== 401) {
      setTimeout(begin, 1000 * (error.again ?? 5));
    }
  }
}

// What people do.

find("choose").addEventListener("click", () => find("files").click());
find("take").addEventListener("click", () => find("camera").click());
for (const input of [find("files"), find("camera")]) {
  input.addEventListener("change", () => {
    add(input.files);
    input.value = ""; // so that the same photo may be chosen again
  });
}
find("form").addEventListener("submit", (event) => event.preventDefault());
find("model").addEventListener("change", (event) => {
  model = event.target.value;
  describe().catch((error) => say(error.message));
});

const drop = find("drop");
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) {
    drop.classList.remove("over");
  }
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  add(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) {
    event.preventDefault();
    add(event.clipboardData.files);
  }
});

switchTheme(find("theme"));
begin();
