'use strict';
/* The request that the form describes, and the field that an error is about. */

// Of the schedules that come with cospec; others have no hint.
const SCHEDULE_HINTS = {
  auto: 'Measures while it decodes, and runs the fastest plan.',
  plain: 'One forward pass of every member for each token: the baseline.',
  fixed: 'One proposer drafts a few tokens, then all members score them.',
  alternate: 'Members take turns: each scores the others’ drafts and proposes in one forward pass.',
  cascade: 'A drafter drafts for one member, which verifies the drafts before all members do.',
  mixture: 'Draws one member for each token in advance. For mixtures at temperature 1.',
};
const SEEDED_AUTO_HINT = 'Under a seed: its default plan, unmeasured, so that the seed gives one text.';
const VERIFICATION_HINTS = {
  token: 'Accepts or replaces each draft by itself.',
  block: 'Verifies a block of drafts together: accepts more.',
  coupled: 'One text for a seed, whatever the schedule.',
};
const FIELDS = {
  prompt: 'prompt', messages: 'message', schedule: 'schedule', verification: 'verification', max_tokens: 'max-tokens',
  temperature: 'temperature', top_p: 'top-p', seed: 'seed', gamma: 'gamma',
};

let plans = {}; // schedule -> the verifications that it supports

function fillSelect(select, values, chosen) {
  select.replaceChildren(...values.map((value) => new Option(value, value, false, value === chosen)));
}

function usePlans(cospec) {
  plans = cospec.plans;
  fillSelect($('schedule'), Object.keys(plans), cospec.schedule);
  offerVerifications(cospec.verification);
  renderHints();
}

// Those of the chosen schedule, the first of them where it does not support the one that was chosen.
function offerVerifications(chosen) {
  fillSelect($('verification'), plans[$('schedule').value], chosen);
}

// Where the text would depend on what was measured, `auto` measures only without a seed.
function isUnmeasured() {
  const isFree = $('seed').value === '' || $('verification').value === 'coupled' || Number($('temperature').value) === 0;
  return $('schedule').value === 'auto' && !isFree;
}

function renderHints() {
  $('schedule-hint').textContent = isUnmeasured() ? SEEDED_AUTO_HINT : SCHEDULE_HINTS[$('schedule').value] ?? '';
  $('verification-hint').textContent = VERIFICATION_HINTS[$('verification').value] ?? '';
}

// Empty means the default. A value that is no number is sent unchanged, so that the server reports the error.
function numberIn(id, fallback) {
  const { value, validity } = $(id);
  if (validity.badInput) return 'not a number';
  return value.trim() === '' ? fallback : Number(value);
}

// Without a seed the server draws one, and its answer says which: under a seed `auto` would not measure.
function seedIn() {
  const seed = numberIn('seed', undefined);
  // Integers beyond what a number holds exactly are sent as their digits.
  return typeof seed !== 'number' || Number.isSafeInteger(seed) ? seed : $('seed').value.trim();
}

// One number, one for each member, or `auto`; anything else is sent unchanged, so that the server reports the error.
function gammaIn() {
  const parts = $('gamma').value.split(/[\s,]+/).filter(Boolean);
  const values = parts.map((part) => (/^\d+$/.test(part) ? Number(part) : part));
  return values.length > 1 ? values : values[0];
}

// subject: the prompt, or the messages.
function readRequest(model, subject) {
  const request = {
    model,
    ...subject,
    max_tokens: numberIn('max-tokens', Number($('max-tokens').placeholder)),
    temperature: numberIn('temperature', 1),
    top_p: numberIn('top-p', 1),
    seed: seedIn(),
    schedule: $('schedule').value,
    gamma: gammaIn(),
    verification: $('verification').value,
    stream: true,
    stream_options: { include_usage: true },
    trace: true,
  };
  return areWeightsChanged() ? { ...request, weights: chosenWeights() } : request;
}

// The server names the field, or begins its message with it.
function fieldOf(error) {
  const [name] = (error.param ?? /^(?:the )?(\w+)/.exec(error.message)?.[1] ?? '').split('.');
  if (name === 'prompt' && isChat()) return $('message');
  return Object.hasOwn(FIELDS, name) ? $(FIELDS[name]) : null;
}

function markField(field) {
  field.setAttribute('aria-invalid', 'true');
  field.setAttribute('aria-errormessage', 'alert');
  for (const box of [$('settings'), $('sampling')]) box.open ||= box.contains(field);
}

function unmarkField(field) {
  field.removeAttribute('aria-invalid');
  field.removeAttribute('aria-errormessage');
}

function unmarkFields() {
  document.querySelectorAll('[aria-invalid]').forEach(unmarkField);
}

function initRequest() {
  $('form').addEventListener('input', (event) => {
    unmarkField(event.target);
    if (event.target === $('schedule')) offerVerifications($('verification').value);
    renderHints();
  });
}
