'use strict';
/* The figures of a run: its speed and length, and each model’s forward passes and drafts. */

// A narrow screen breaks it before the equals sign alone.
function acceptanceCell({ accepted, proposed }) {
  if (!(proposed > 0)) return figureCell('–');
  const cell = figureCell('', 'breaks');
  const [counts, rate] = [`${accepted} / ${proposed}`, `= ${fixed(accepted / proposed, 2)}`].map((text) => make('span', '', text));
  cell.append(counts, ' ', rate);
  return cell;
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
    acceptanceCell({ accepted, proposed }),
  );
  return row;
}

// The schedule, and its settings below: `fixed 4 by math` that `auto` chose is `fixed`, by auto: length 4 by math.
function renderPlan(run) {
  const [name, ...settings] = planOf(run).split(' ');
  const origin = run.schedule === 'auto' && name !== 'auto' ? 'by auto' : '';
  $('ran').textContent = name;
  const hasLength = settings.length > 0 && !['by', 'for'].includes(settings[0]);
  const written = `${hasLength ? 'length ' : ''}${settings.join(' ')}`;
  $('plan').textContent = $('plan').title = [origin, written].filter(Boolean).join(': ');
}

function renderFigures(run) {
  $('speed').textContent = fixed(speedOf(run));
  $('first-token').textContent = fixed(firstTokenOf(run), 0);
  $('length').textContent = String(numTokens(run));
  showSeed(run.seed);
  renderPlan(run);
  $('sheet-summary').textContent = `${run.numSettled} positions are settled.`;
  $('lane-figures').replaceChildren(...laneFigures(run).map(figureRow));
}

function clearFigures() {
  showSeed(null);
  for (const id of ['speed', 'first-token', 'length', 'ran']) $(id).textContent = '–';
  $('plan').textContent = $('plan').title = '';
  $('sheet-summary').textContent = 'Nothing is settled yet.';
  $('lane-figures').replaceChildren(...[...lanes.keys()].map((name) => figureRow({ name })));
}
