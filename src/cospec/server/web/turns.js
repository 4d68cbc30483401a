'use strict';
/* The turns of the conversation on the page: a user's message, and an answer with its figures beneath. */

function quietButton(label, name, onClick) {
  const button = make('button', 'quiet', label);
  button.type = 'button';
  button.setAttribute('aria-label', name);
  button.addEventListener('click', onClick);
  return button;
}

function turnNode(role, title, ...parts) {
  const node = make('li', `turn ${role}`);
  node.append(make('h3', 'hidden-text', title), ...parts);
  return node;
}

function userTurn({ content }, onEdit) {
  const text = make('p', 'message', content);
  text.dir = 'auto';
  return { node: turnNode('user', 'You', text, quietButton('Edit', 'Edit this message', onEdit)) };
}

// What stays of a run's figures beneath its answer.
function figuresOf(run) {
  const drafts = laneFigures(run).filter(({ proposed }) => proposed > 0);
  return {
    speed: speedOf(run), tokens: numTokens(run), plan: planOf(run), seed: run.seed,
    drafts: drafts.map(({ name, accepted, proposed }) => ({ name, accepted, proposed })),
  };
}

function draftFigure({ name, accepted, proposed }) {
  const figure = make('span', 'draft-figure');
  figure.title = `Of ${proposed} tokens that ${name} proposed, ${accepted} were accepted.`;
  figure.append(namePlate(name), ` ${accepted} / ${proposed} = ${fixed(accepted / proposed, 2)}`);
  return figure;
}

function figureNodes({ speed, tokens, plan, drafts }) {
  const schedule = make('span', '', plan.split(' ')[0]);
  schedule.title = plan;
  const drafted = drafts.length > 0 ? [make('span', '', 'accepted'), ...drafts.map(draftFigure)] : [make('span', '', 'no drafts')];
  return [make('span', '', `${fixed(speed)} tokens/s`), make('span', '', lengthOf(tokens)), schedule, ...drafted];
}

// A view of a run, as `createText` is, that also keeps in its turn what it showed.
function answerTurn(turn, follow, onAgain) {
  const box = make('div', 'answer');
  const figures = make('p', 'figures');
  const below = make('div', 'below hint');
  const again = quietButton('Regenerate', 'Regenerate this answer', onAgain);
  again.title = 'A seed under Sampling gives the same answer again.';
  below.append(figures, again);
  Object.assign(box, { dir: 'auto', role: 'group', ariaLabel: 'Answer' });
  const text = createText(box, follow);

  function showFigures() {
    const note = turn.note ? [make('strong', '', turn.note)] : [];
    figures.replaceChildren(...note, ...(turn.figures ? figureNodes(turn.figures) : []));
  }

  return {
    ...text,
    node: turnNode('assistant', 'Answer', box, below),
    turn,
    settled(event) {
      const { position, token, proposer, replaced, rejected } = event;
      turn.events.push({ position, text: event.text, token, proposer, replaced, rejected });
      text.settled(event);
    },
    showFigures,
    showFiguresSoon: onceAFrame(showFigures),
    // The answer as it was before the page was loaded anew.
    replay() {
      text.start();
      for (const event of turn.events) text.settled(event);
      text.finish(turn.content);
      showFigures();
    },
  };
}
