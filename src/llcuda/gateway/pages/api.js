// What is asked of the gateway, with the key that was typed. It is kept for this tab alone.

const NAME = "llcuda-key";
const PATIENCE_MS = 10000;

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const key = {
  get: () => sessionStorage.getItem(NAME),
  set: (value) => sessionStorage.setItem(NAME, value),
  forget: () => sessionStorage.removeItem(NAME),
  isUsable: (value) => /^[\x21-\x7e]{1,256}$/.test(value),
};

// Raises Refused with the gateway's own words, and TypeError where it does not answer.
async function ask(path, body, signal) {
  const headers = {};
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const options = { headers, signal, cache: "no-store" };
  if (body !== undefined) Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  const answer = await fetch(path, options);
  if (!answer.ok) throw new Refused(answer.status, await readMessage(answer));
  return answer;
}

async function readMessage(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `The gateway answers with status ${answer.status}.`;
  }
}

export async function getJson(path) {
  return (await ask(path, undefined, AbortSignal.timeout(PATIENCE_MS))).json();
}

export async function getText(path) {
  return (await ask(path, undefined, AbortSignal.timeout(PATIENCE_MS))).text();
}

export async function postJson(path, body) {
  return (await ask(path, body, AbortSignal.timeout(PATIENCE_MS))).json();
}

// Calls `take` with the object of each event of the stream, as they come.
export async function postEvents(path, body, take) {
  const answer = await ask(path, body);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const lines = event.split("\n").filter((line) => line.startsWith("data:"));
      if (lines.length) take(JSON.parse(lines.map((line) => line.slice(5)).join("\n")));
    }
  }
}
