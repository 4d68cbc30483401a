'use strict';
/* Tokens in words: the token, its proposer, and the draft that it replaced. */

// Makes whitespace visible.
function visible(token) {
  if (token === '') return '∎';
  const text = token.replace(/\r?\n/g, '⏎').replace(/\t/g, '⇥');
  return text.trim() === '' ? text.replace(/ /g, '␣') : text;
}

// Trimmed, unless only a space distinguishes it from the token that replaced it.
function quotable(token, other) {
  const trimmed = visible(token).trim();
  return trimmed === visible(other).trim() ? visible(token).replace(/ /g, '␣') : trimmed;
}

// [before, replaced draft, after]; the latter two only where a draft was replaced.
function describeParts(event) {
  if (event.replaced != null) {
    return [`${event.rejected ?? 'someone'} proposed `, quotable(event.replaced, event.token), ', replaced by r'];
  }
  return [event.proposer == null ? 'drawn from r' : `proposed by ${event.proposer}, accepted`];
}

function describe(event) {
  return describeParts(event).join('');
}
