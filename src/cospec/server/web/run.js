'use strict';
/* A run: one streamed text or answer, with counts by lane from its trace until the server’s own figures arrive. */

function createRun({ schedule, max_tokens: maxTokens }, views, onProgress) {
  return {
    schedule, maxTokens, views, onProgress,
    text: '', reason: null, seed: null, usage: null, metrics: null,
    numSettled: 0, startedAt: performance.now(), firstAt: 0, lastAt: 0,
    tally: new Map(), // lane -> {calls, accepted, proposed}
  };
}

function tallyOf(run, name) {
  if (!run.tally.has(name)) run.tally.set(name, { calls: 0, accepted: 0, proposed: 0 });
  return run.tally.get(name);
}

function countSettled(run, event) {
  run.numSettled += 1;
  run.lastAt = performance.now();
  run.firstAt ||= run.lastAt;
  const looked = event.proposer ?? event.rejected;
  if (looked == null) return;
  tallyOf(run, looked).proposed += 1;
  if (event.proposer != null) tallyOf(run, looked).accepted += 1;
}

function takeEvent(run, event) {
  if (event.event === 'settled') {
    countSettled(run, event);
    for (const view of run.views) view.settled(event);
  } else if (event.event === 'round') {
    for (const [name, calls] of Object.entries(event.calls)) tallyOf(run, name).calls = calls;
    for (const view of run.views) view.round(event);
  }
}

function takeChunk(run, chunk) {
  if (chunk.error) throw new ServerError({ message: chunk.error.message ?? 'The server reported an error.', status: 500 });
  const choice = chunk.choices?.[0];
  run.text += choice?.text ?? choice?.delta?.content ?? '';
  run.reason = choice?.finish_reason ?? run.reason;
  run.seed ??= choice?.seed ?? null;
  run.usage = chunk.usage ?? run.usage;
  run.metrics = chunk.metrics ?? run.metrics;
  for (const event of chunk.trace ?? []) takeEvent(run, event);
  run.onProgress(run);
}

async function takeStream(request, run, signal) {
  const response = await ask(request.messages ? '/v1/chat/completions' : '/v1/completions', {
    method: 'POST', signal, body: JSON.stringify(request), headers: { 'Content-Type': 'application/json' },
  });
  for await (const data of eventData(response.body)) {
    if (data === '[DONE]') return;
    takeChunk(run, JSON.parse(data));
  }
  throw new TypeError('The stream ended before the text did.');
}

async function complete(request, run, signal) {
  run.seed = request.seed ?? null;
  for (const view of run.views) view.start();
  try {
    await takeStream(request, run, signal);
  } finally {
    for (const view of run.views) view.finish(run.text);
    run.onProgress(run);
  }
}

function lengthOf(count) {
  return count === 1 ? '1 token' : `${count} tokens`;
}

function numTokens(run) {
  return run.usage?.completion_tokens ?? run.numSettled;
}

// The server’s own figure; until it arrives, as measured by this page.
function speedOf(run) {
  const measured = run.numSettled > 0 ? (1000 * run.numSettled) / (run.lastAt - run.startedAt) : NaN;
  return run.metrics?.tokens_per_second ?? measured;
}

function firstTokenOf(run) {
  return run.metrics?.time_to_first_token_ms ?? (run.firstAt ? run.firstAt - run.startedAt : NaN);
}

// The plan that ran: under `auto` the one chosen at the end.
function planOf(run) {
  return run.metrics?.plan || run.metrics?.schedule || run.schedule;
}

// [{name, calls, perHundred, fed, accepted, proposed}], by lane.
function laneFigures(run) {
  const costs = { ...run.metrics?.members, ...run.metrics?.drafters };
  const proposers = run.metrics?.speculative_decoding?.proposers ?? {};
  return [...lanes.keys()].map((name) => {
    const counted = run.tally.get(name) ?? { calls: 0, accepted: 0, proposed: 0 };
    const { accepted, proposed } = run.metrics ? proposers[name] ?? { accepted: 0, proposed: 0 } : counted;
    const calls = costs[name]?.calls ?? counted.calls;
    return { name, calls, perHundred: (100 * calls) / numTokens(run), fed: costs[name]?.tokens_fed, accepted, proposed };
  });
}
