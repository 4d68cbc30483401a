'use strict';
/* The figures of a run: its speed and length, and each model’s forward passes and drafts. */

function acceptanceText({ accepted, proposed }) {
  return proposed > 0 ? `${accepted} / ${proposed} = ${fixed(accepted / proposed, 2)}` : '–';
}

function figureCell(text, className = '') {
  return make('td', className, text);
}

function figureRow({ name, calls, perHundred, fed, accepted, proposed }) {
  const row = make('tr');
  const head = make('th');
  head.scope = 'row';
  head.append(namePlate(name));
  row.append(
    head, figureCell(String(calls ?? '–')), figureCell(fixed(perHundred, 0)), figureCell(String(fed ?? '–'), 'wide'),
    figureCell(acceptanceText({ accepted, proposed })),
  );
  return row;
}

function renderFigures(run) {
  $('speed').textContent = fixed(speedOf(run));
  $('first-token').textContent = fixed(firstTokenOf(run), 0);
  $('length').textContent = String(numTokens(run));
  $('ran').textContent = planOf(run);
  $('by-auto').textContent = run.schedule === 'auto' && planOf(run) !== 'auto' ? 'by auto' : '';
  $('sheet-summary').textContent = `${run.numSettled} positions are settled.`;
  $('lane-figures').replaceChildren(...laneFigures(run).map(figureRow));
}

function clearFigures() {
  for (const id of ['speed', 'first-token', 'length', 'ran']) $(id).textContent = '–';
  $('by-auto').textContent = '';
  $('sheet-summary').textContent = 'Nothing is settled yet.';
  $('lane-figures').replaceChildren(...[...lanes.keys()].map((name) => figureRow({ name })));
}
