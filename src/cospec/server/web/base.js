'use strict';
/* Small helpers that every other part uses. */

const $ = (id) => document.getElementById(id);

function make(tag, className = '', text = '') {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== '') node.textContent = text;
  return node;
}

// The nodes of a message: what stands between backticks is code.
function withCode(message) {
  const parts = message.split(/`([^`]+)`/);
  return parts.map((part, i) => (i % 2 ? make('code', '', part) : document.createTextNode(part)));
}

// A box that scrolls sideways can be scrolled by keys: it is a tab stop for as long as it scrolls.
function keepReachable(box) {
  const observer = new ResizeObserver(() => {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute('tabindex');
  });
  for (const each of [box, ...box.children]) observer.observe(each);
}

function fixed(value, digits = 1) {
  return Number.isFinite(value) ? value.toFixed(digits) : '–';
}

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

// Calls `draw` at most once a frame, with the latest arguments.
function onceAFrame(draw) {
  let frame = 0;
  let latest;
  return (...given) => {
    latest = given;
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      draw(...latest);
    });
  };
}

// Storage may be forbidden; the page works without it.
const store = {
  get(area, key) {
    try { return window[area].getItem(`cospec.${key}`); } catch { return null; }
  },
  set(area, key, value) {
    try { window[area].setItem(`cospec.${key}`, value); } catch { /* kept for this page only */ }
  },
};
