'use strict';
/* Tokens in words: what stands there, who proposed it, what it replaced. */

// Whitespace that could not be seen otherwise.
function visible(token) {
  if (token === '') return '∎';
  const text = token.replace(/\r?\n/g, '⏎').replace(/\t/g, '⇥');
  return text.trim() === '' ? text.replace(/ /g, '␣') : text;
}

// Trimmed, unless the space is all that tells it from the token that stands there now.
function quotable(token, other) {
  const trimmed = visible(token).trim();
  return trimmed === visible(other).trim() ? visible(token).replace(/ /g, '␣') : trimmed;
}

// [before, what was struck out, after]; the latter two where a draft was replaced.
function describeParts(event) {
  if (event.replaced != null) {
    return [`${event.rejected ?? 'someone'} proposed `, quotable(event.replaced, event.token), ', replaced by r'];
  }
  return [event.proposer == null ? 'drawn from r' : `proposed by ${event.proposer}, accepted`];
}

function describe(event) {
  return describeParts(event).join('');
}
