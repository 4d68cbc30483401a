'use strict';
/* The seed of the last run, the user’s or the one that the server drew: copied, or used again. */

const NOTE_MS = 1500;

function showSeed(seed) {
  const digits = String(seed ?? '');
  if ($('used-seed').textContent === digits) return; // what is selected stays selected
  $('used-seed').textContent = digits;
  $('seed-line').hidden = digits === '';
}

// What a button did, on the button for a moment, and spoken.
function noteDone(button, done) {
  button.dataset.label ??= button.textContent;
  button.textContent = done;
  $('spoken').textContent = `Seed ${$('used-seed').textContent}: ${done.toLowerCase()}`;
  setTimeout(() => { button.textContent = button.dataset.label; }, NOTE_MS);
}

// Without a secure context there is no clipboard: then the digits are at least selected.
async function copySeed() {
  getSelection().selectAllChildren($('used-seed'));
  try {
    await navigator.clipboard.writeText($('used-seed').textContent);
    noteDone($('copy-seed'), 'Copied');
  } catch {
    noteDone($('copy-seed'), document.execCommand('copy') ? 'Copied' : 'Selected');
  }
}

function reuseSeed() {
  $('seed').value = $('used-seed').textContent;
  $('sampling').open = true;
  $('seed').dispatchEvent(new Event('input', { bubbles: true }));
  noteDone($('reuse-seed'), 'Reused');
}

function initSeed() {
  $('copy-seed').addEventListener('click', copySeed);
  $('reuse-seed').addEventListener('click', reuseSeed);
}
