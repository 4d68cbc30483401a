'use strict';
/* Keeps a box at its end until the user scrolls back, and again once the end is reached. */

const AXES = {
  x: { at: 'scrollLeft', size: 'scrollWidth', view: 'clientWidth', slack: 4 },
  // Pending drafts that go take up to two lines with them.
  y: { at: 'scrollTop', size: 'scrollHeight', view: 'clientHeight', slack: 64 },
};

function followEnd(box, axis) {
  const { at, size, view, slack } = AXES[axis];
  let isFollowing = true;
  let last = 0;
  box.addEventListener('scroll', () => {
    if (box[at] + box[view] >= box[size] - 4) isFollowing = true;
    else if (box[at] < last - slack) isFollowing = false;
    last = isFollowing ? box[at] : Math.min(last, box[at]);
  }, { passive: true });
  return {
    reset() {
      isFollowing = true;
      last = 0;
      box[at] = 0;
    },
    tick: onceAFrame(() => {
      if (isFollowing) box[at] = box[size];
    }),
  };
}
