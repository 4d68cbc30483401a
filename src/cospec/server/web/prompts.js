'use strict';
/* The prompt: written, or chosen from the server’s examples and the user’s earlier prompts. */

const NUM_KEPT_PROMPTS = 20;

let examples = [];
let mine = []; // prompts that the user wrote, the latest first

function shorten(text) {
  const line = text.slice(0, 200).trim().replace(/\s+/g, ' ');
  return line.length > 56 ? `${line.slice(0, 55)}…` : line;
}

function promptGroup(label, prompts) {
  const group = make('optgroup');
  group.label = label;
  group.append(...prompts.map((prompt) => new Option(shorten(prompt), prompt)));
  return group;
}

function useExamples(prompts) {
  examples = prompts;
  if ($('prompt').value === '') $('prompt').value = examples[0] ?? '';
  renderExamples();
}

function renderExamples() {
  const groups = [promptGroup('Examples', examples)];
  if (mine.length > 0) groups.push(promptGroup('Yours', mine));
  $('example').replaceChildren(new Option('Your own', ''), ...groups);
  markExample();
}

function markExample() {
  const options = [...$('example').options];
  $('example').selectedIndex = Math.max(0, options.findIndex(({ value }) => value !== '' && value === $('prompt').value));
}

// A prompt that the user wrote stays in the list when an example replaces it.
function keepPrompt() {
  const text = $('prompt').value;
  const isNew = text.trim() !== '' && !examples.includes(text) && !mine.includes(text);
  if (isNew) mine = [text, ...mine].slice(0, NUM_KEPT_PROMPTS);
  savePrompts();
}

function chooseExample() {
  const text = $('example').value;
  keepPrompt();
  if (text !== '') $('prompt').value = text;
  renderExamples();
  savePrompts();
}

function savePrompts() {
  store.set('sessionStorage', 'prompt', $('prompt').value);
  store.set('sessionStorage', 'mine', JSON.stringify(mine));
}

function restorePrompts() {
  $('prompt').value ||= store.get('sessionStorage', 'prompt') ?? '';
  try {
    const kept = JSON.parse(store.get('sessionStorage', 'mine') ?? '[]');
    if (Array.isArray(kept)) mine = kept.filter((text) => typeof text === 'string');
  } catch { /* unreadable: none */ }
}

function initPrompts() {
  restorePrompts();
  $('example').addEventListener('change', chooseExample);
  $('prompt').addEventListener('input', markExample);
  $('prompt').addEventListener('change', savePrompts);
}
