'use strict';
/* The chosen schedule compared with plain: speed, and forward passes of each model for 100 tokens. */

// A number with a bar whose length is its share of the largest.
function barCell(value, largest, className) {
  const cell = make('td');
  const bar = make('span', `bar ${className}`);
  const filled = make('i');
  filled.style.width = `${Number.isFinite(value) && largest > 0 ? (100 * value) / largest : 0}%`;
  bar.append(filled);
  cell.append(bar, make('span', 'value', fixed(value)));
  return cell;
}

function barCells(values, className) {
  const largest = Math.max(0, ...values.filter(Number.isFinite));
  return values.map((value) => barCell(value, largest, className));
}

function passesRow(name, chosen, plain) {
  const row = make('tr');
  const head = make('th');
  head.scope = 'row';
  head.append(namePlate(name));
  row.append(head, ...barCells([chosen, plain], colourOf(name)));
  return row;
}

function passesOf(run) {
  if (!run || numTokens(run) === 0) return {};
  return Object.fromEntries(laneFigures(run).map(({ name, perHundred }) => [name, perHundred]));
}

function renderPasses(chosen, plain) {
  const head = make('tr');
  const label = make('th', 'hint', 'Forward passes for 100 tokens');
  label.scope = 'rowgroup';
  label.colSpan = 3;
  head.append(label);
  const rows = [...lanes.keys()].map((name) => passesRow(name, passesOf(chosen)[name], passesOf(plain)[name]));
  $('passes').replaceChildren(head, ...rows);
}

function renderSpeeds(chosen, plain) {
  const bars = barCells([chosen, plain].map((run) => (run ? speedOf(run) : NaN)), 'speed-bar');
  ['speed-chosen', 'speed-plain'].forEach((id, i) => $(id).replaceChildren(...bars[i].childNodes));
}

function ratioOf(chosen, plain) {
  return chosen?.metrics && plain?.metrics ? speedOf(chosen) / speedOf(plain) : NaN;
}

function noteOn(chosen, plain) {
  if (!chosen?.metrics || !plain?.metrics) return '';
  if (chosen.text === plain.text) return 'Both runs produced the same text, character by character.';
  return 'Two samples of one distribution. Under verification “coupled” they would be the same text.';
}

function renderComparison(chosen, plain) {
  renderSpeeds(chosen, plain);
  renderPasses(chosen, plain);
  const ratio = ratioOf(chosen, plain);
  $('ratio').replaceChildren();
  if (Number.isFinite(ratio)) $('ratio').append(make('strong', '', `${fixed(ratio, 2)}×`), ' the speed of plain');
  $('compare-note').textContent = noteOn(chosen, plain);
}

function clearComparison() {
  $('name-chosen').textContent = 'chosen';
  renderComparison(null, null);
}
