'use strict';
/* Chat or text: what the page asks for, and what it shows for it. */

const MODES = {
  chat: { verb: 'Send', title: 'Conversation', maxTokens: '300', place: 'composer' },
  text: { verb: 'Generate', title: 'Text', maxTokens: '100', place: 'form' },
};

function isChat() {
  return document.body.dataset.mode === 'chat';
}

function useMode(mode) {
  const { verb, title, maxTokens, place } = MODES[mode];
  // A limit that the user has set stays.
  if ($('max-tokens').value === $('max-tokens').placeholder) $('max-tokens').value = maxTokens;
  $('max-tokens').placeholder = maxTokens;
  document.body.dataset.mode = mode;
  $(`mode-${mode}`).checked = true;
  $('generate').textContent = verb;
  $('text-title').textContent = title;
  $(place).append($('actions'));
  foldSettings();
}

// On a narrow screen the conversation comes before the settings are seen.
function foldSettings() {
  $('settings').open = !isChat() || matchMedia(WIDE).matches;
}

// Who has a chat template is asked to chat, unless the user has chosen otherwise.
function offerModes({ chat_templates: templates, own_systems: own, members }) {
  const chosen = store.get('sessionStorage', 'mode');
  const isTemplated = templates.length === members.length;
  useMode(Object.hasOwn(MODES, chosen) ? chosen : isTemplated ? 'chat' : 'text');
  const bare = members.filter((name) => !templates.includes(name));
  $('template-hint').hidden = isTemplated;
  $('template-hint').textContent = `Without a chat template: ${bare.join(', ')}. The chat is given as “Question: … Answer: …”.`;
  $('system-hint').hidden = own.length === 0;
  $('system-hint').textContent = `Not given to ${own.join(', ')}: in its place stands the member’s own.`;
}

function initMode(onChange) {
  for (const mode of Object.keys(MODES)) {
    $(`mode-${mode}`).addEventListener('change', () => {
      store.set('sessionStorage', 'mode', mode);
      useMode(mode);
      onChange();
    });
  }
  matchMedia(WIDE).addEventListener('change', foldSettings);
}
