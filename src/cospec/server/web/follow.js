'use strict';
/* Keeps a box scrolled to its end while it grows, unless the user has scrolled back. */

const AXES = {
  x: { at: 'scrollLeft', size: 'scrollWidth', view: 'clientWidth' },
  y: { at: 'scrollTop', size: 'scrollHeight', view: 'clientHeight' },
};
const SLACK = 4; // pixels

// endOf: where the end is, in pixels from the box's beginning.
function followEnd(box, axis, endOf = () => box[AXES[axis].size]) {
  const { at, size, view } = AXES[axis];
  let isFollowing = true;
  let last = 0;
  box.addEventListener('scroll', () => {
    if (box[at] + box[view] >= box[size] - SLACK) isFollowing = true;
    else if (box[at] < last - SLACK) isFollowing = false;
    last = box[at];
  }, { passive: true });
  return {
    reset() {
      isFollowing = true;
      last = 0;
      box[at] = 0;
    },
    tick: onceAFrame(() => {
      if (isFollowing) box[at] = Math.max(box[at], endOf() - box[view]);
    }),
  };
}
