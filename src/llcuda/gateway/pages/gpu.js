// Whether the GPU is used, why not, and what turns it on.

import { Refused, getJson, postEvents } from "./api.js";
import { bytes, find, setList, setResult, setText, speak } from "./words.js";

const STEPS = {
  download: "Downloading",
  unpack: "Unpacking",
  prove: "Trying it on this GPU",
  activate: "Switching over",
  reload: "Starting new workers",
};
let offer = null;
let isInstalling = false;

export function showGpuUse(models) {
  const workers = models.flatMap((model) => model.workers).filter((worker) => worker.device);
  const used = workers.filter((worker) => worker.device.device === "cuda").length;
  const chip = find("gpu-state");
  const all = used === workers.length ? "in use" : `used by ${used} of ${workers.length} workers`;
  setText(chip, used ? all : "not in use");
  chip.dataset.kind = used ? "good" : "";
}

export async function refreshDevices(isAdmin) {
  const { devices } = await getJson("api/capabilities");
  setText(find("gpu-reason"), speak(devices.reason));
  setText(find("gpu-remedy"), speak(devices.remedy));
  find("gpu-remedy").hidden = !devices.remedy || !isAdmin;
  const facts = [
    ["GPU", devices.gpu_name],
    ["Compute capability", devices.compute_capability?.toFixed(1)],
    ["Backend", devices.backend],
    ["Platform", devices.platform],
  ];
  setList(find("gpu-facts"), facts.filter(([, value]) => value));
}

export async function refreshUpgrade(isAdmin) {
  if (!isAdmin || isInstalling) return;
  try {
    offer = await getJson("api/admin/upgrade-gpu");
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    offer = null;
  }
  find("upgrade").hidden = !offer;
  if (offer) showOffer();
}

function showOffer() {
  // A source on this machine's own disk has nothing to download.
  const size = offer.download_bytes ? ` (${bytes(offer.download_bytes)})` : "";
  const button = find("upgrade-open");
  setText(button, `Enable GPU${size}`);
  button.hidden = !offer.possible || offer.running;
  const installed = offer.installed ? "A GPU backend is installed." : "";
  const reason = speak(offer.reason ?? installed);
  const isSaid = find("gpu-reason").textContent.includes(reason.split(". ")[0]);
  const note = offer.running ? "An installation is under way." : offer.possible || isSaid ? "" : reason;
  setText(find("upgrade-note"), note);
}

function openDialog() {
  const download = offer.download_bytes ? `downloads ${bytes(offer.download_bytes)}` : "installs what it needs";
  const backend = offer.backend ? ` (${offer.backend})` : "";
  setText(
    find("upgrade-text"),
    `This ${download} for the GPU${backend}, tries it on this machine, and then starts new workers. ` +
      "Requests are answered meanwhile. If it does not work, everything stays as it is.",
  );
  find("upgrade-dialog").showModal();
}

async function install() {
  find("upgrade-dialog").close();
  isInstalling = true;
  find("upgrade-open").hidden = true;
  find("upgrade-progress").hidden = false;
  setResult(find("upgrade-result"), "");
  showStep({ step: "download", done: 0, total: null });
  let last = null;
  try {
    await postEvents("api/admin/upgrade-gpu", { consent: true }, (event) => {
      last = event;
      showStep(event);
    });
    showEnd(last);
  } catch (error) {
    const words = error instanceof Refused ? error.message : "The connection broke off. What came of it shows when the page is loaded again.";
    setResult(find("upgrade-result"), words, "bad");
  }
  isInstalling = false;
  find("upgrade-progress").hidden = true;
  await Promise.allSettled([refreshDevices(true), refreshUpgrade(true)]);
  if (!find("upgrade-open").hidden) find("upgrade-open").focus();
}

function showStep({ step, done, total, message }) {
  if (step === "done" || step === "failed") return;
  const bar = find("upgrade-bar");
  setText(find("upgrade-step"), [STEPS[step] ?? message ?? step, total ? `${bytes(done)} of ${bytes(total)}` : ""].filter(Boolean).join(": "));
  if (total) {
    bar.max = total;
    bar.value = done;
  } else {
    bar.removeAttribute("value");
  }
}

function showEnd(event) {
  const result = find("upgrade-result");
  if (event?.step === "done") {
    setResult(result, "The GPU is enabled.", "good");
  } else if (event?.step === "failed") {
    const back = event.rolled_back ? "Everything is as it was before." : "";
    setResult(result, [event.message, event.hint, back].filter(Boolean).map(speak).join(" "), "bad");
  } else {
    setResult(result, "The gateway broke off before it was done.", "bad");
  }
}

find("upgrade-open").addEventListener("click", openDialog);
find("upgrade-cancel").addEventListener("click", () => find("upgrade-dialog").close());
find("upgrade-confirm").addEventListener("click", () => void install());
