'use strict';
/* The members’ weights. If they are shares of a whole, moving one moves the others. */

const LEAST_SHARE = 0.01; // the server refuses a weight of zero
const TINY = 1e-9;

let weights = []; // as the server gave them
let areShares = true;
let least = LEAST_SHARE;

function sliders() {
  return [...$('sliders').querySelectorAll('input')];
}

function useWeights({ members, combination }) {
  weights = combination.weights ?? [];
  areShares = combination.type !== 'arithmetic' && weights.every((weight) => weight > 0);
  const starts = weights.map(startOf);
  least = Math.min(LEAST_SHARE, ...starts);
  $('weights').hidden = weights.length < 2;
  $('sliders').replaceChildren(...starts.map((start, i) => weightRow(members[i], start, i)));
  renderWeights();
}

// A product’s weights need not sum to 1: they are shown as shares of their sum.
function startOf(weight) {
  return areShares ? weight / sum(weights) : weight;
}

function weightRow(name, value, index) {
  const row = make('div', `weight ${colourOf(name)}`);
  const label = make('label', '', name);
  label.title = name;
  const slider = make('input');
  const reach = Math.max(2, Math.ceil(Math.abs(value)));
  const [min, max] = areShares ? [least, 1 - least * (weights.length - 1)] : [-reach, reach];
  label.htmlFor = slider.id = `weight-${index}`;
  Object.assign(slider, { type: 'range', min, max, step: 'any' });
  slider.value = value;
  slider.dataset.initial = slider.value; // as the browser keeps it
  slider.addEventListener('input', () => moveWeight(slider));
  const output = make('output');
  output.htmlFor = slider.id;
  row.append(label, slider, output);
  return row;
}

function moveWeight(slider) {
  if (areShares) shareRest(slider);
  renderWeights();
}

// The others share the rest: each has the least share, and of what is left its former part.
function shareRest(slider) {
  const others = sliders().filter((other) => other !== slider);
  const extras = others.map((other) => Number(other.value) - least);
  const spare = 1 - Number(slider.value) - least * others.length;
  const partOf = (extra) => (sum(extras) > TINY ? extra / sum(extras) : 1 / others.length);
  others.forEach((other, i) => { other.value = least + spare * partOf(extras[i]); });
}

function renderWeights() {
  for (const slider of sliders()) {
    const text = Number(slider.value).toFixed(2);
    slider.setAttribute('aria-valuetext', text);
    slider.nextElementSibling.textContent = text;
  }
  $('weights-sum').textContent = `sum ${fixed(sum(sliders().map((slider) => Number(slider.value))), 2)}`;
  $('reset-weights').hidden = !areWeightsChanged();
}

function areWeightsChanged() {
  return sliders().some((slider) => slider.value !== slider.dataset.initial);
}

function chosenWeights() {
  const values = sliders().map((slider) => Number(slider.value));
  const scale = areShares ? sum(weights) / sum(values) : 1;
  return values.map((value) => value * scale);
}

function resetWeights() {
  for (const slider of sliders()) slider.value = slider.dataset.initial;
  renderWeights();
  sliders()[0]?.focus();
}

function initWeights() {
  $('reset-weights').addEventListener('click', resetWeights);
}
