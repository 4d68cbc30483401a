'use strict';
/* The conversation with the chosen ensemble: its turns, kept until the tab is closed. */

const NUM_SUGGESTIONS = 3;

let turns = []; // {role, content}; an answer has {events, figures, note} too
let answer = null; // the view of the last answer
let editing = null; // the turn that the message is to replace, with all behind it
let before = null; // what to go back to if no answer comes

const conversationFollow = followEnd($('conversation'), 'y');

/* ---- the turns ---- */

function addTurn(turn) {
  turns.push(turn);
  const shown = turn.role === 'user'
    ? userTurn(turn, () => edit(turns.indexOf(turn)))
    : answerTurn(turn, conversationFollow, () => start(generateOnce, true));
  $('turns').append(shown.node);
  $('suggestions').hidden = true;
  return shown;
}

function cutTurns(length) {
  turns.length = length;
  for (const node of [...$('turns').children].slice(length)) node.remove();
  $('suggestions').hidden = length > 0;
}

function showTurns(kept) {
  stopEditing();
  cutTurns(0);
  for (const turn of kept) addTurn(turn).replay?.();
  conversationFollow.tick();
}

/* ---- keeping them ---- */

function conversationKey() {
  return `chat ${model.id}`;
}

function keepConversation() {
  if (!model) return;
  store.set('sessionStorage', conversationKey(), JSON.stringify(turns));
  store.set('sessionStorage', 'message', $('message').value);
  store.set('sessionStorage', 'system', $('system').value);
}

function isTurn(turn) {
  const isAnswer = turn?.role === 'assistant' && Array.isArray(turn.events);
  return typeof turn?.content === 'string' && (turn.role === 'user' || isAnswer);
}

function restoreConversation() {
  let kept = [];
  try {
    kept = JSON.parse(store.get('sessionStorage', conversationKey()) ?? '[]');
  } catch { /* unreadable: none */ }
  showTurns(Array.isArray(kept) && kept.every(isTurn) ? kept : []);
}

/* ---- asking ---- */

function messages() {
  const system = $('system').value.trim();
  const front = system === '' ? [] : [{ role: 'system', content: system }];
  // A template writes its own space in front of an answer.
  return [...front, ...turns.slice(0, -1).map(({ role, content }) => ({ role, content: content.trim() }))];
}

function goBack() {
  const written = [before.message, $('message').value].filter(Boolean);
  showTurns(before.turns);
  $('message').value = [...new Set(written)].join('\n');
  if (before.editing != null) edit(before.editing, $('message').value);
}

// An answer that did not come to its end says why.
function noteOf(run, phase) {
  if (run?.reason === 'stop') return run.text === '' ? 'ended at once' : '';
  if (run?.reason) return reasonOf(run);
  return phase === 'stopped' ? 'stopped' : 'cut off';
}

// What a run is of, as `textSubject` is.
const chatSubject = {
  begin(isAgain) {
    const message = isAgain ? '' : $('message').value.trim();
    if (message === '' && !(isAgain && turns.at(-1)?.role === 'assistant')) {
      $('message').focus();
      return false;
    }
    before = { turns: [...turns], message: message && $('message').value, editing };
    cutTurns(message ? editing ?? turns.length : turns.length - 1);
    if (message) {
      addTurn({ role: 'user', content: message });
      $('message').value = '';
    }
    stopEditing();
    answer = addTurn({ role: 'assistant', content: '', events: [] });
    conversationFollow.reset();
    conversationFollow.tick();
    return true;
  },
  fields: () => ({ messages: messages() }),
  get view() { return answer; },
  progress(run) {
    Object.assign(answer, { run });
    Object.assign(answer.turn, { content: run.text, figures: figuresOf(run) });
    answer.showFiguresSoon();
    conversationFollow.tick();
  },
  // Returns whether there is an answer.
  end(phase) {
    const { turn, run } = answer;
    const isAnswered = phase === 'done' || turn.content !== '';
    if (isAnswered) {
      turn.note = noteOf(run, phase);
      answer.showFigures();
      conversationFollow.tick();
      $('spoken').textContent = turn.content;
    } else {
      goBack();
    }
    keepConversation();
    return isAnswered;
  },
};

/* ---- other ways to go on ---- */

function edit(index, text = turns[index].content) {
  if (controller) return;
  editing = index;
  $('editing').hidden = false;
  [...$('turns').children].forEach((node, i) => node.classList.toggle('faded', i >= index));
  $('message').value = text;
  $('message').focus();
}

function stopEditing() {
  editing = null;
  $('editing').hidden = true;
  for (const node of $('turns').children) node.classList.remove('faded');
}

function cancelEdit() {
  if (editing === null) return;
  stopEditing();
  $('message').value = '';
  $('message').focus();
}

function newChat() {
  if (controller) return;
  showTurns([]);
  keepConversation();
  $('message').focus();
}

function suggest(question) {
  $('message').value = question;
  $('message').focus();
}

// Of a prompt in the plain form the question alone.
function questionOf(prompt) {
  return /^Question: ([^]*)\nAnswer:$/.exec(prompt)?.[1] ?? prompt;
}

function useSuggestions(prompts) {
  $('suggestions').querySelector('ul').replaceChildren(...prompts.slice(0, NUM_SUGGESTIONS).map((prompt) => {
    const item = make('li');
    const button = make('button', 'suggestion', questionOf(prompt));
    button.type = 'button';
    button.addEventListener('click', () => suggest(questionOf(prompt)));
    item.append(button);
    return item;
  }));
}

/* ---- the composer ---- */

function onMessageKey(event) {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  if (event.ctrlKey || event.metaKey) return; // as everywhere on the page
  event.preventDefault();
  start(generateOnce);
}

// The page is left in the middle of an answer: what came of it is kept.
function leave() {
  if (controller && isChat() && answer) chatSubject.end('failed');
  else keepConversation();
}

function initConversation() {
  for (const id of ['message', 'system']) $(id).value ||= store.get('sessionStorage', id) ?? '';
  $('message').addEventListener('keydown', onMessageKey);
  $('message').addEventListener('input', () => unmarkField($('message')));
  $('cancel-edit').addEventListener('click', cancelEdit);
  $('new-chat').addEventListener('click', newChat);
  $('conversation').addEventListener('scroll', moveSpot, { passive: true });
  window.addEventListener('pagehide', leave);
}
