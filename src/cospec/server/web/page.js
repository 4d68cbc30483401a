'use strict';
/* The page: loads the ensemble, runs the form’s request, and shows its state. */

const WIDE = '(min-width: 60rem)';
const NUM_WARMING_TOKENS = 16;

let models = [];
let model = null;
let controller = null; // of the run in progress

const textView = createTextBox($('output'), $('text-empty'));
const plainView = createTextBox($('output-plain'), $('plain-empty'));
const sheetView = createSheet($('sheet'), $('sheet-names'), $('sheet-columns'));
const showFigures = onceAFrame(renderFigures);
const showComparison = onceAFrame(renderComparison);

/* ---- states ---- */

function setPhase(phase, message) {
  const isStreaming = phase === 'streaming';
  document.body.dataset.phase = phase;
  $('status').textContent = message;
  $('generate').disabled = $('compare').disabled = isStreaming || !model;
  for (const control of [$('model'), $('mode-chat'), $('mode-text'), $('new-chat')]) control.disabled = isStreaming;
  $('stop').disabled = !isStreaming;
}

function showError(message, onRetry) {
  $('alert').replaceChildren(...withCode(message));
  if (!onRetry) return;
  const retry = make('button', '', 'Try again');
  retry.type = 'button';
  retry.addEventListener('click', onRetry);
  $('alert').append(' ', retry);
}

function fail(error, onRetry) {
  setPhase('failed', '');
  showError(explain(error), isWorthRetrying(error) ? onRetry : null);
  $('alert').scrollIntoView({ block: 'nearest' });
  const field = error.status === 400 ? fieldOf(error) : null;
  if (field) markField(field);
  if (error.status === 401) askForKey();
}

function askForKey() {
  $('key-form').hidden = false;
  $('api-key').focus();
}

function clearResults() {
  clearSpot();
  unmarkFields();
  $('alert').textContent = '';
  for (const view of [textView, plainView, sheetView]) view.clear();
  clearFigures();
  clearComparison();
}

/* ---- running ---- */

// What a run is of: a text behind the prompt. `chatSubject` is its like for an answer in the conversation.
const textSubject = {
  view: textView,
  begin() {
    keepPrompt();
    renderExamples();
    return true;
  },
  fields: () => ({ prompt: $('prompt').value }),
  progress() {},
  end: () => false,
};

async function runChosen(request, subject, onProgress, signal) {
  const run = createRun(request, [subject.view, sheetView], (latest) => {
    onProgress(latest);
    subject.progress(latest);
  });
  setPhase('streaming', `Decoding with ${request.schedule}…`);
  await complete(request, run, signal);
  return run;
}

// A length below the requested one is what the members’ context had room for.
function reasonOf(run) {
  if (run.reason !== 'length') return { stop: 'end of text' }[run.reason];
  return numTokens(run) < run.maxTokens ? 'the context is full' : 'max tokens reached';
}

async function generateOnce(request, subject, signal) {
  const run = await runChosen(request, subject, showFigures, signal);
  const reason = reasonOf(run);
  return `Done: ${lengthOf(numTokens(run))}${reason ? `, ${reason}` : ''}.`;
}

// A value that is no number is sent unchanged, so that the server reports the error.
function numWarmingTokens(asked) {
  return typeof asked === 'number' ? Math.min(asked, NUM_WARMING_TOKENS) : asked;
}

// Without drafts there is no draft length.
function asPlain(request) {
  return { ...request, schedule: 'plain', gamma: undefined };
}

// The first run has costs that later ones have not, such as allocating memory.
async function warmUp(request, signal) {
  setPhase('streaming', 'Warming up…');
  for (const each of [request, asPlain(request)]) {
    const run = createRun(each, [], () => {});
    await complete({ ...each, max_tokens: numWarmingTokens(request.max_tokens) }, run, signal);
  }
}

// One after the other, so that neither slows the other.
async function generateBoth(request, subject, signal) {
  $('name-chosen').textContent = request.schedule;
  await warmUp(request, signal);
  const chosen = await runChosen(request, subject, (run) => {
    showFigures(run);
    showComparison(run, null);
  }, signal);
  const asked = { ...asPlain(request), seed: chosen.seed };
  const plain = createRun(asked, [plainView], (run) => showComparison(chosen, run));
  setPhase('streaming', 'Decoding with plain…');
  await complete(asked, plain, signal);
  const ratio = ratioOf(chosen, plain);
  return Number.isFinite(ratio) ? `Done: ${fixed(ratio, 2)}× the speed of plain.` : 'Done.';
}

// On a narrow screen the results are below the form.
function revealResults() {
  const behavior = matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth';
  if (isChat()) $('talk').scrollIntoView({ behavior, block: 'nearest' });
  else if ($('results').getBoundingClientRect().top > innerHeight / 2) $('results').scrollIntoView({ behavior });
}

// generate: one run or a comparison; it returns what is said at its end. isAgain: the last answer is asked for again.
async function start(generate, isAgain = false) {
  const subject = isChat() ? chatSubject : textSubject;
  const origin = document.activeElement;
  if (controller || !model || !subject.begin(isAgain)) return;
  controller = new AbortController();
  const { signal } = controller;
  resetLanes(model.cospec);
  clearResults();
  setPhase('streaming', 'Starting…');
  // A disabled button would drop the focus.
  if (origin instanceof HTMLButtonElement) $('stop').focus({ preventScroll: true });
  revealResults();
  try {
    const said = await generate(readRequest(model.id, subject.fields()), subject, signal);
    finish('done', said, subject);
  } catch (error) {
    const phase = signal.aborted ? 'stopped' : 'failed';
    const isAnswered = finish(phase, signal.aborted ? 'Stopped.' : '', subject);
    if (!signal.aborted) fail(error, isOfModel(error) ? load : () => start(generate, isAgain || isAnswered));
  }
  const isFocusLost = document.activeElement === $('stop') || document.activeElement === document.body;
  if (isFocusLost) placeOf(origin).focus({ preventScroll: true });
}

function finish(phase, said, subject) {
  controller = null;
  setPhase(phase, said);
  return subject.end(phase);
}

// Where the focus goes on. Without a mouse a focused message would bring up a keyboard over the answer.
function placeOf(origin) {
  if (isChat() && matchMedia('(pointer: fine)').matches) return $('message');
  return origin === $('compare') ? origin : $('generate');
}

function cancel() {
  controller?.abort();
}

/* ---- loading ---- */

function describeModel() {
  const { members, drafters, combination } = model.cospec;
  const drafted = drafters?.length ? `, drafted by ${drafters.join(', ')}` : '';
  return `${model.id}: ${combination.type} of ${members.join(', ')}${drafted}`;
}

function useModel(chosen) {
  model = chosen;
  const { cospec } = model;
  resetLanes(cospec);
  clearResults();
  $('about').textContent = describeModel();
  usePlans(cospec);
  useWeights(cospec);
  useExamples(cospec.prompts);
  useSuggestions(cospec.prompts);
  offerModes(cospec);
  restoreConversation();
  setPhase('idle', 'Ready.');
}

// The figures are those of the last run, which was of the other mode.
function leaveMode() {
  resetLanes(model?.cospec);
  clearResults();
  if (model) setPhase('idle', 'Ready.');
}

function chooseModel() {
  store.set('sessionStorage', 'model', $('model').value);
  useModel(models.find((entry) => entry.id === $('model').value));
}

async function load() {
  setPhase('idle', 'Connecting…');
  $('alert').textContent = '';
  try {
    const response = await ask('/v1/models');
    models = (await response.json()).data.filter((entry) => entry.cospec);
    if (models.length === 0) throw new Error('The server offers no ensemble.');
    $('key-form').hidden = true;
    // A link cannot send the key.
    $('metrics').hidden = apiKey !== '';
    $('model-field').hidden = models.length === 1;
    const chosen = models.find((entry) => entry.id === store.get('sessionStorage', 'model')) ?? models[0];
    fillSelect($('model'), models.map((entry) => entry.id), chosen.id);
    useModel(chosen);
  } catch (error) {
    if (error.status === 401 && apiKey === '') {
      setPhase('idle', 'This server asks for an API key.');
      askForKey();
    } else {
      fail(error, load);
    }
  }
}

function useKey(event) {
  event.preventDefault();
  apiKey = $('api-key').value.trim();
  store.set('sessionStorage', 'key', apiKey);
  load();
}

/* ---- the start ---- */

function onKeydown(event) {
  if (event.key === 'Escape') {
    clearSpot();
    if (controller) cancel();
    else cancelEdit();
  } else if (event.key === 'Enter' && (event.ctrlKey || event.metaKey) && event.target !== $('api-key')) {
    event.preventDefault();
    start(generateOnce);
  }
}

function init() {
  initTheme();
  initPrompts();
  initMode(leaveMode);
  initConversation();
  initWeights();
  initRequest();
  initSeed();
  for (const box of document.querySelectorAll('.scroll')) keepReachable(box);
  $('sampling').open = matchMedia(WIDE).matches;
  $('form').addEventListener('submit', (event) => {
    event.preventDefault();
    start(generateOnce);
  });
  $('key-form').addEventListener('submit', useKey);
  // In a chat without a new message the last answer is compared.
  $('compare').addEventListener('click', () => start(generateBoth, $('message').value.trim() === ''));
  $('stop').addEventListener('click', cancel);
  $('model').addEventListener('change', chooseModel);
  document.addEventListener('keydown', onKeydown);
  window.addEventListener('scroll', moveSpot, { passive: true });
  clearResults();
  load();
}

init();
