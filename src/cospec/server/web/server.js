'use strict';
/* Requests to the server: the API key, error messages, and the events of a stream. */

let apiKey = store.get('sessionStorage', 'key') ?? '';

class ServerError extends Error {
  constructor({ message, status, param = null }) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

async function errorOf(response) {
  const { status } = response;
  try {
    const { error, detail } = await response.json();
    const message = error?.message ?? detail;
    if (typeof message === 'string') return new ServerError({ message, status, param: error?.param });
  } catch { /* no JSON: the status says it */ }
  return new ServerError({ message: `The server answered ${status} ${response.statusText}`.trim(), status });
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (apiKey) headers.Authorization = `Bearer ${apiKey}`;
  const response = await fetch(path, { ...options, headers });
  if (!response.ok) throw await errorOf(response);
  return response;
}

// fetch and its reader throw a TypeError for every lost connection, without details.
function isLost(error) {
  return error instanceof TypeError;
}

function explain(error) {
  if (isLost(error)) return 'The server cannot be reached. Is it still running?';
  if (error.status === 401) return `This key is not accepted: ${error.message}`;
  if (error.status === 429) return `The server is busy: ${error.message}.`;
  return error.message;
}

// Whether the same request may succeed later.
function isWorthRetrying(error) {
  return isLost(error) || error.status === 429 || error.status >= 500 || isOfModel(error);
}

// The server serves other ensembles than when the page was loaded.
function isOfModel(error) {
  return error.status === 404 && error.param === 'model';
}

// The data of each server-sent event; chunks may end anywhere, also within a character or a line.
async function* eventData(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const events = (rest + value).split('\n\n');
      rest = events.pop();
      for (const event of events) if (event.startsWith('data: ')) yield event.slice(6);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
