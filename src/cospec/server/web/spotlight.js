'use strict';
/* The token under the pointer, a finger or the focus: described in a tooltip, and highlighted wherever it is shown. */

const shown = new WeakMap(); // element -> the settled event that it shows
const shownBy = new WeakMap(); // settled event -> the elements that show it
let spot = null; // the element pointed at

function showsToken(node, event) {
  shown.set(node, event);
  shownBy.set(event, [...(shownBy.get(event) ?? []), node]);
}

function light(node, isLit) {
  for (const each of shownBy.get(shown.get(node))) each.classList.toggle('lit', isLit);
}

function pointAt(node) {
  clearSpot();
  spot = node;
  light(node, true);
  showTip(node, shown.get(node));
}

function clearSpot() {
  if (spot) light(spot, false);
  spot = null;
  $('tip').hidden = true;
}

function showTip(node, event) {
  const tip = $('tip');
  const [before, struck, after] = describeParts(event);
  tip.replaceChildren(before);
  if (struck !== undefined) tip.append(make('s', '', struck), after);
  tip.hidden = false;
  placeTip(tip, node.getClientRects()[0] ?? node.getBoundingClientRect());
}

// Above the token, or below it if there is no room above.
function placeTip(tip, { left, top, bottom }) {
  const { width, height } = tip.getBoundingClientRect();
  const x = Math.max(8, Math.min(left, document.documentElement.clientWidth - width - 8));
  const y = top - height - 8 < 4 ? bottom + 8 : top - height - 8;
  tip.style.transform = `translate(${Math.round(x)}px, ${Math.round(y)}px)`;
}

// Focus may scroll its token into view: then the tooltip moves with it.
function moveSpot() {
  if (!spot) return;
  const hasFocus = spot.contains(document.activeElement) || document.activeElement?.contains(spot);
  if (hasFocus) showTip(spot, shown.get(spot));
  else clearSpot();
}

// A box that scrolls sideways, such as the sheet, scrolls a focused token into view; a pointer alone scrolls nothing.
function revealSpot() {
  for (const each of shownBy.get(shown.get(spot))) each.dispatchEvent(new Event('reveal', { bubbles: true }));
}

function watchTokens(box) {
  const point = (event) => {
    let node = event.target;
    while (node !== box && !shown.has(node)) node = node.parentElement;
    if (node === box) return clearSpot();
    pointAt(node);
    if (event.type !== 'pointerover') revealSpot();
  };
  for (const type of ['pointerover', 'focusin', 'click']) box.addEventListener(type, point);
  for (const type of ['pointerleave', 'focusout']) box.addEventListener(type, clearSpot);
  box.addEventListener('scroll', moveSpot, { passive: true });
}
