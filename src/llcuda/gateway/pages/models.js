// A card for each model: its workers, what they run on and why, and the form that changes it.

import { makeOffloadForm, showOffload } from "./offload.js";
import { bytes, count, find, make, sentence, setLines, setText } from "./words.js";

const COLUMNS = ["Worker", "State", "Runs on", "Layers on GPU", "Slots", "Memory", "Restarts"];
const cards = new Map();

export function showModels({ models, caller, needs_key: needsKey }) {
  for (const name of [...cards.keys()]) {
    if (models.every((model) => model.name !== name)) {
      cards.get(name).card.remove();
      cards.delete(name);
    }
  }
  for (const model of models) {
    if (!cards.has(model.name)) cards.set(model.name, makeCard(model.name));
    showModel(cards.get(model.name), model, caller.is_admin, needsKey);
  }
}

function makeCard(name) {
  const chip = make("span", { class: "chip" });
  const body = make("tbody", { role: "rowgroup" });
  const heads = COLUMNS.map((column) => make("th", { scope: "col", role: "columnheader" }, column));
  // On a narrow screen the rows are blocks; the roles keep them a table for who listens.
  const table = make(
    "table",
    { role: "table", "aria-label": `Workers of ${name}` },
    make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...heads)),
    body,
  );
  const reasons = make("ul", { class: "reasons" });
  const offload = makeOffloadForm(name);
  const title = make("div", { class: "head" }, make("h2", {}, name), chip);
  const card = make("section", { class: "card model", "aria-label": `Model ${name}` }, title, table, reasons, offload.form);
  find("models").append(card);
  return { card, chip, table, body, reasons, offload, rows: new Map() };
}

function showModel(view, model, isAdmin, needsKey) {
  const ready = model.workers.filter((worker) => worker.state === "ready").length;
  setText(view.chip, describe(model, ready));
  view.chip.dataset.kind = ready ? "good" : model.on_demand && !model.workers.length ? "" : "bad";
  view.table.hidden = !model.workers.length;
  showWorkers(view, model.workers);
  setLines(view.reasons, explainWorkers(model.workers, isAdmin));
  showOffload(view.offload, model.offload, isAdmin, needsKey);
}

function describe(model, ready) {
  const queue = model.waiting ? `, ${count(model.waiting, "request")} waiting` : "";
  if (!model.workers.length) return (model.on_demand ? "starts when it is asked for" : "not running") + queue;
  return `${ready} of ${count(model.workers.length, "worker")} ready${queue}`;
}

function showWorkers(view, workers) {
  for (const [name, row] of view.rows) {
    if (workers.every((worker) => worker.name !== name)) {
      row.remove();
      view.rows.delete(name);
    }
  }
  for (const worker of workers) {
    if (!view.rows.has(worker.name)) view.rows.set(worker.name, view.body.appendChild(makeRow()));
    showWorker(view.rows.get(worker.name), worker);
  }
}

function makeRow() {
  const cells = COLUMNS.map((column, index) =>
    index
      ? make("td", { role: "cell", "data-label": column }, make("span"))
      : make("th", { scope: "row", role: "rowheader" }, make("span")),
  );
  return make("tr", { role: "row" }, ...cells);
}

function showWorker(row, worker) {
  const { device } = worker;
  const texts = [
    worker.name,
    worker.state,
    device ? nameDevice(device) : "–",
    device && device.layers !== null ? `${device.layers_on_gpu} of ${device.layers}` : "–",
    `${worker.busy} of ${worker.slots} busy`,
    bytes(worker.memory_bytes),
    String(worker.restarts),
  ];
  texts.forEach((text, index) => setText(row.children[index].firstChild, text));
  row.dataset.state = worker.state;
}

function nameDevice(device) {
  if (device.device === "cpu") return "CPU";
  const gpus = device.memory.filter((use) => use.name).map((use) => `${use.name} (${bytes(use.bytes)})`);
  return [gpus.join(", ") || "GPU", device.backend].filter(Boolean).join(", ");
}

// What several workers say alike is said once; what is to be done, to those who can do it.
function explainWorkers(workers, isAdmin) {
  const said = workers.flatMap(({ device, ...worker }) => [
    ...(device ? [device.reason, ...device.limits, ...device.steps.map((step) => `Out of memory, so ${step}.`)] : []),
    isAdmin ? device?.remedy : "",
    worker.last_error ? `Worker ${worker.name} ${describeEnd(worker)}: ${worker.last_error}` : "",
    worker.failures ? `Worker ${worker.name} failed at ${count(worker.failures, "request")}.` : "",
  ]);
  return [...new Set(said.filter(Boolean).map(sentence))];
}

function describeEnd({ state, restarts }) {
  if (state === "failed") return "has failed";
  if (state === "ready" && restarts) return restarts === 1 ? "was restarted" : `was restarted ${restarts} times, the last time`;
  return "ended";
}
