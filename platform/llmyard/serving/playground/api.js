// Requests to the endpoint that this page came from. The key lives in this tab's session storage, and nowhere else.
const KEY = "llmyard-key";

export const readKey = () => sessionStorage.getItem(KEY) ?? "";
export const keepKey = (key) => sessionStorage.setItem(KEY, key);
export const forgetKey = () => sessionStorage.removeItem(KEY);
/** Returns the whole address of a path, below whatever prefix a proxy has put before this page. */
export const address = (path) => new URL(path, document.baseURI).href.split("#")[0];

/** A request that failed; `kind` names the text that explains it, `message` is what the endpoint said of it. */
export class Failure extends Error {
  constructor(kind, message = "", retryAfter = null) {
    super(message);
    Object.assign(this, { kind, retryAfter });
  }
}

/** Returns the answer to a request and the milliseconds until all of it was there. */
export async function ask(path, body, signal) {
  const began = performance.now();
  const response = await send(path, body, signal);
  const answer = await response.json().catch((error) => {
    throw signal?.aborted ? error : new Failure("failed_answer");
  });
  return { answer, milliseconds: performance.now() - began };
}

/** Yields the events of a stream; one that ends without its mark, or tells of an error, is a failure. */
export async function* events(path, body, signal) {
  const response = await send(path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let rest = ""; ; ) {
      const { value, done } = await reader.read().catch((error) => {
        throw signal?.aborted ? error : new Failure("failed_stream");
      });
      if (done) throw new Failure("failed_stream");
      const parts = (rest + value).split(/\r?\n\r?\n/);
      rest = parts.pop();
      for (const data of parts.map(dataOf).filter(Boolean)) {
        if (data === "[DONE]") return;
        const event = JSON.parse(data);
        if (event.error) throw new Failure("failed_stream", event.error.message);
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // it has ended already, or breaks off now: both are what is wanted
  }
}

function dataOf(event) {
  const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice(5).trimStart()).join("\n");
}

async function send(path, body, signal) {
  const key = readKey();
  if (!/^[\x21-\x7e]+$/.test(key)) throw new Failure("failed_key"); // no header can hold another
  const headers = { Authorization: `Bearer ${key}`, ...(body && { "Content-Type": "application/json" }) };
  const options = { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal };
  const response = await fetch(address(path), options).catch((error) => {
    throw signal?.aborted ? error : new Failure("failed_network");
  });
  if (response.ok) return response;
  const error = (await response.json().catch(() => null))?.error;
  throw new Failure(kindOf(response.status, error?.code), error?.message ?? "", wait(response.headers));
}

function kindOf(status, code) {
  if (status === 401 || status === 403) return "failed_key";
  if (code === "model_not_found") return "failed_model";
  if (status === 413) return "failed_size";
  if (status === 429) return "failed_rate";
  if (status === 503) return "failed_busy";
  if (status === 408 || status === 504) return "failed_time";
  return status >= 500 ? "failed_server" : "failed_request";
}

/** Returns the seconds that `Retry-After` asks for, which may also name a time; null for none. */
function wait(headers) {
  const said = headers.get("Retry-After");
  if (said === null) return null;
  const seconds = /^\d+$/.test(said.trim()) ? Number(said) : (Date.parse(said) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, Math.ceil(seconds)) : null;
}
