'use strict';
/* A streamed text: a span for each settled token, then the drafts that are not decided yet. */

const NUM_LINES_BELOW = 2;

// A text in a box of its own, which scrolls.
function createTextBox(box, emptyTemplate) {
  // Drafts are short-lived: the box follows the end of the settled text, with room below it.
  const lineHeight = () => parseFloat(getComputedStyle(box).lineHeight);
  const endOf = () => (box.querySelector('.pending')?.offsetTop ?? 0) + NUM_LINES_BELOW * lineHeight();
  const follow = followEnd(box, 'y', endOf);
  const text = createText(box, follow);
  const clear = () => {
    text.start();
    box.replaceChildren(emptyTemplate.content.firstElementChild.cloneNode(true));
    follow.reset();
  };
  return { ...text, clear };
}

// follow: what scrolls along.
function createText(box, follow) {
  const pending = make('span', 'pending');
  let spans = [];
  let swapped = []; // spans that replaced a draft: one tab stop, arrows between them

  function append(text, className) {
    const span = make('span', className, text);
    spans.push(span);
    if (pending.isConnected) box.insertBefore(span, pending);
    else box.append(span);
    return span;
  }

  function makeFocusable(span, event) {
    span.classList.add('swapped');
    span.style.setProperty('--q', event.rejected == null ? 'var(--neutral)' : `var(--c${laneOf(event.rejected).index % NUM_COLOURS})`);
    span.tabIndex = swapped.length === 0 ? 0 : -1;
    span.setAttribute('role', 'button');
    span.setAttribute('aria-label', `${quotable(event.token, event.replaced)}: ${describe(event)}`);
    swapped.push(span);
  }

  function focusSwapped(span) {
    for (const other of swapped) other.tabIndex = other === span ? 0 : -1;
    span.focus();
  }

  function onKey(event) {
    const index = swapped.indexOf(event.target);
    if (index < 0 && event.key !== 'ArrowRight') return; // on the box itself the other keys scroll
    const next = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: swapped.length - 1 }[event.key];
    if (next === undefined || !swapped[next]) return;
    event.preventDefault();
    focusSwapped(swapped[next]);
  }

  watchTokens(box);
  box.addEventListener('keydown', onKey);

  return {
    start() {
      spans = [];
      swapped = [];
      pending.replaceChildren();
      box.replaceChildren(pending);
    },
    settled(event) {
      const span = append(event.text, `tok ${colourOf(event.proposer)}`);
      showsToken(span, event);
      if (event.replaced != null) makeFocusable(span, event);
      follow.tick();
    },
    round(event) {
      pending.replaceChildren(...event.drafts.map((draft) => make('span', `tok ${colourOf(draft.proposer)}`, draft.token)));
      follow.tick();
    },
    // Shows the answer's text exactly, where the trace differs from it: a stop string cuts settled tokens, and bytes
    // that were held back until they formed a character come with the last of them.
    finish(text) {
      pending.remove();
      let length = 0;
      let isCut = false;
      for (const span of spans) {
        isCut ||= !text.startsWith(span.textContent, length);
        if (isCut) span.textContent = '';
        length += span.textContent.length;
      }
      if (length < text.length) append(text.slice(length), 'tok r');
    },
  };
}
