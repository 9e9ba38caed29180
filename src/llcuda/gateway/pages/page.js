// The page: asks for the status every second while it is seen, and shows it.

import { Refused, getJson, getText, key, useLink } from "./api.js";
import { showCharts } from "./charts.js";
import { refreshDevices, refreshUpgrade, showGpuUse } from "./gpu.js";
import { showModels } from "./models.js";
import { bytes, count, duration, explain, find, number, sentence, setLines, setList, setResult, setText } from "./words.js";

const INTERVAL_MS = 1000;
const SLOW_INTERVAL_MS = 60000;
let timer = 0;
let isAsking = false;
let devicesAt = -Infinity;
let devicesOf = "";
let heardAt = "";

async function poll() {
  if (isAsking) return;
  isAsking = true;
  clearTimeout(timer);
  try {
    const status = await getJson("api/status");
    show(status);
    await refreshSlowly(status);
  } catch (error) {
    showFailure(error);
  } finally {
    isAsking = false;
    if (!document.hidden && find("sign-in").hidden) timer = setTimeout(poll, INTERVAL_MS);
  }
}

// The devices are looked at anew when other workers run than before, and once a minute.
async function refreshSlowly(status) {
  const workers = [status.caller.is_admin, ...status.models.flatMap((model) => model.workers.map((worker) => worker.name))].join();
  if (workers === devicesOf && performance.now() - devicesAt < SLOW_INTERVAL_MS) return;
  [devicesAt, devicesOf] = [performance.now(), workers];
  await Promise.all([refreshDevices(status.caller.is_admin), refreshUpgrade(status.caller.is_admin)]);
}

function show(status) {
  heardAt = new Date().toLocaleTimeString();
  find("content").classList.remove("old");
  find("sign-in").hidden = true;
  find("content").hidden = false;
  find("forget").hidden = !key.get();
  setText(find("version"), status.version);
  const workers = status.models.flatMap((model) => model.workers);
  const ready = workers.filter((worker) => worker.state === "ready").length;
  showSummary(`${ready} of ${count(workers.length, "worker")} ready`, ready || !workers.length ? "good" : "bad");
  showGpuUse(status.models);
  showCharts(status.recent);
  showModels(status);
  showTotals(status);
  showExample(status);
}

function showTotals({ counted, memory, recent, uptime_seconds: uptime, models }) {
  const answered = Object.values(counted.requests).reduce((sum, value) => sum + value, 0);
  // The chat page asks whether there are tools: nobody was sent away.
  const rejected = Object.entries(counted.rejected).filter(([reason]) => reason !== "no_tools");
  const workers = models.flatMap((model) => model.workers);
  setList(find("totals"), [
    ["Running for", duration(uptime)],
    ["Requests", number(answered)],
    ["Tokens made", number(recent.tokens)],
    ["Sent away", number(rejected.reduce((sum, [, value]) => sum + value, 0))],
    ["Cancelled by clients", number(counted.cancelled ?? 0)],
    ["Asked a second worker", number(counted.retries ?? 0)],
    ["Memory of the gateway", bytes(memory.gateway_bytes)],
    ["Memory of the workers", bytes(workers.reduce((sum, worker) => sum + (worker.memory_bytes ?? 0), 0))],
    ["Memory available", bytes(memory.available_bytes)],
  ]);
  setLines(find("rejected"), rejected.map(([reason, value]) => `${count(value, "request was", "requests were")} sent away because ${explain(reason)}.`));
}

function showExample({ models: [{ name }], needs_key: needsKey }) {
  const header = needsKey ? ' \\\n  -H "Authorization: Bearer $KEY"' : "";
  const address = new URL("v1/chat/completions", document.baseURI).href;
  const body = `{"model": "${name}", "messages": [{"role": "user", "content": "What is 2+2?"}]}`;
  setText(find("example"), `curl ${address}${header} \\\n  -H "Content-Type: application/json" \\\n  -d '${body}'`);
}

function showSummary(text, kind) {
  setText(find("summary").lastElementChild, text);
  find("summary").dataset.kind = kind;
}

function showFailure(error) {
  if (error instanceof Refused && error.status === 401) {
    askForKey();
  } else if (error instanceof Refused) {
    showSummary(sentence(error.message), "bad");
  } else if (error instanceof TypeError || error.name === "TimeoutError") {
    const old = heardAt && `, and shows how it was at ${heardAt}`;
    showSummary(`The gateway does not answer; this page tries again${old}`, "bad");
    find("content").classList.add("old");
  } else {
    throw error;
  }
}

function askForKey() {
  const wasWrong = Boolean(key.get());
  key.forget();
  find("content").hidden = true;
  find("forget").hidden = true;
  find("sign-in").hidden = false;
  showSummary("A key is needed", "");
  setResult(find("key-result"), wasWrong ? "This key is not one of this gateway's." : "", "bad");
  find("key").focus();
}

find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = find("key").value.trim();
  find("key").value = "";
  if (key.isUsable(given)) {
    key.set(given);
    void poll();
  } else {
    setResult(find("key-result"), "A key has only letters, digits and signs, and no spaces.", "bad");
  }
});

// The key in a link stands behind `#`, which is sent to nobody. It is taken out of the address before it is used up.
async function followLink() {
  const link = new URLSearchParams(location.hash.slice(1)).get("key");
  if (link) {
    history.replaceState(null, "", location.pathname);
    try {
      await useLink(link);
      setResult(find("link-result"), "This tab may change settings until it is closed.", "good");
    } catch (error) {
      setResult(find("link-result"), error instanceof Refused ? sentence(error.message) : "The gateway does not answer.", "bad");
    }
  }
  void poll();
}

find("forget").addEventListener("click", () => {
  key.forget();
  location.reload();
});

// A link carries no key; so the page asks for the metrics itself where there is one.
find("metrics-link").addEventListener("click", async (event) => {
  if (!key.get()) return;
  event.preventDefault();
  find("metrics-dialog").showModal();
  try {
    setText(find("metrics-text"), await getText("metrics"));
  } catch (error) {
    setText(find("metrics-text"), error.message);
  }
});
find("metrics-close").addEventListener("click", () => find("metrics-dialog").close());

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) void poll();
});

addEventListener("hashchange", () => void followLink());
void followLink();
