// What is asked of the gateway, with the key that was typed or came with the link. It is kept for this tab alone.

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
async function ask(path, { body, method = body === undefined ? "GET" : "POST", signal = AbortSignal.timeout(PATIENCE_MS), as = key.get() } = {}) {
  const headers = {};
  if (as) headers.Authorization = `Bearer ${as}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method, headers, signal, cache: "no-store", body: body && JSON.stringify(body) });
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

export const getJson = async (path) => (await ask(path)).json();
export const getText = async (path) => (await ask(path)).text();
export const postJson = async (path, body) => (await ask(path, { body })).json();

// Changes the key of a link, which is good once, for one of this tab's own.
export async function useLink(link) {
  key.set((await (await ask("api/owner", { method: "POST", as: link })).json()).key);
}

// Calls `take` with the object of each event of the stream, as they come.
export async function postEvents(path, body, take) {
  const answer = await ask(path, { body, signal: null });
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
