// Where a model runs, and the form that changes it.

import { Refused, postJson } from "./api.js";
import { make, sentence, setResult, setText, speak } from "./words.js";

const CHOICES = [
  ["auto", "Automatic", "the GPU if there is one"],
  ["full", "GPU", "all layers, as far as they fit"],
  ["mixed", "GPU and CPU", "so many layers on the GPU"],
  ["cpu", "CPU", "none on the GPU"],
];
const HOW_TO_OWN = "To change it, open the link that llcuda serve shows in its terminal, or give the gateway an administrator's key.";
const NAMES = Object.fromEntries(CHOICES.map(([value, name]) => [value, name]));

export function makeOffloadForm(model) {
  const radios = CHOICES.map(([value]) => make("input", { type: "radio", name: `offload-${model}`, value }));
  const options = CHOICES.map(([, name, text], index) =>
    make("label", { class: "option" }, radios[index], make("span", {}, make("b", {}, name), make("small", {}, text))),
  );
  const layers = make("input", { type: "number", min: "1", value: "1", step: "1", inputmode: "numeric", "aria-label": `Layers of ${model} on the GPU` });
  const most = make("span", { class: "muted" });
  const layersRow = make("label", { class: "layers" }, "Layers on the GPU ", layers, most);
  const button = make("button", { type: "submit", class: "primary" }, "Apply and restart");
  const note = make("span", { class: "muted" });
  const result = make("p", { class: "result", role: "status" });
  const fields = make("fieldset", {}, make("legend", {}, "Where it runs"), make("div", { class: "options" }, ...options), layersRow);
  const form = make("form", { class: "offload", novalidate: "" }, fields, make("div", { class: "row" }, button, note), result);
  const view = { model, form, fields, radios, layers, layersRow, most, button, note, result, isTouched: false, awaited: null, isBusy: false };
  form.addEventListener("input", () => {
    view.isTouched = true;
    showLayers(view);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!view.isBusy) void apply(view);
  });
  return view;
}

async function apply(view) {
  const offload = view.radios.find((radio) => radio.checked)?.value;
  if (!offload) return;
  const layers = offload === "mixed" ? { gpu_layers: Number(view.layers.value) } : {};
  setBusy(view, true);
  setResult(view.result, "Looking whether this can work");
  try {
    const { change } = await postJson("api/admin/offload", { model: view.model, offload, ...layers });
    view.awaited = change.number;
    view.isTouched = false;
  } catch (error) {
    const words = error instanceof Refused ? error.message : "The gateway does not answer.";
    setResult(view.result, sentence(words), "bad");
    view.isTouched = false;
  }
  setBusy(view, false);
}

export function showOffload(view, offload, isAdmin, needsKey) {
  const { choice, gpu_layers: layers, change } = offload;
  const isRunning = change?.state === "running";
  if (!view.isTouched && !view.isBusy) {
    const asked = isRunning ? change.offload : choice;
    for (const radio of view.radios) radio.checked = radio.value === asked;
    if (layers) view.layers.value = layers;
  }
  if (offload.layers) view.layers.max = offload.layers;
  setText(view.most, offload.layers ? ` of ${offload.layers}` : "");
  view.fields.disabled = !isAdmin;
  view.button.hidden = !isAdmin;
  setText(view.note, isAdmin ? "" : needsKey ? "Changing it needs the key of an administrator." : HOW_TO_OWN);
  showLayers(view);
  view.button.setAttribute("aria-disabled", String(isRunning || view.isBusy));
  if (change) showChange(view, change);
}

// A change that had ended before is not told of: the answer of an older question may still come in.
function showChange(view, change) {
  const name = change.offload === "mixed" ? `${NAMES.mixed}, ${change.gpu_layers} layers on the GPU` : NAMES[change.offload];
  if (change.state === "running") {
    view.awaited = change.number;
    setResult(view.result, `Starting new workers (${name}). Those before answer until then.`);
  } else if (view.awaited === change.number) {
    view.awaited = null;
    if (change.state === "done") setResult(view.result, `Done: ${name}.`, "good");
    else setResult(view.result, `${sentence(change.message ?? "It could not be started")} ${speak(change.hint)} The workers before go on.`, "bad");
  }
}

function setBusy(view, isBusy) {
  view.isBusy = isBusy;
  view.button.setAttribute("aria-disabled", String(isBusy));
}

function showLayers(view) {
  view.layersRow.hidden = !view.radios.some((radio) => radio.checked && radio.value === "mixed");
}
