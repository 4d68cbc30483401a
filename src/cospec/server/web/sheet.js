'use strict';
/* The score sheet: a column for each position, a row for each lane, drawn from the trace's events. */

const MARK_EVERY = 10; // positions between two numbers above the columns

function createSheet(box, names, root) {
  const follow = followEnd(box, 'x');
  let rows = []; // lane names, top to bottom
  let columns = []; // {node, word, cells}
  let pending = []; // [column, row] of drafts not yet decided
  let numSettled = 0;
  let cursor = -1; // the column that the arrow keys are at
  let limit = Infinity; // the token there was drawn from r in this round, so that no row after it can be known

  function addRow(name) {
    const head = make('div');
    head.title = name;
    head.append(namePlate(name));
    names.append(head);
    rows.push(name);
    for (const column of columns) addCell(column, name);
    return rows.length - 1;
  }

  function rowOf(name) {
    const row = rows.indexOf(name);
    return row < 0 ? addRow(name) : row;
  }

  function addCell(column, name) {
    const base = `cell ${colourOf(name)}`;
    const node = make('div', base);
    column.cells.push({ node, base, isFed: false, mark: '' });
    column.node.append(node);
  }

  function addColumn() {
    const position = columns.length;
    const column = { node: make('div', 'col'), word: make('bdi', 'word r'), cells: [] };
    const head = make('div', 'head');
    head.append(make('span', 'number', position % MARK_EVERY === 0 ? String(position) : ''), column.word);
    column.node.append(head);
    for (const name of rows) addCell(column, name);
    columns.push(column);
    root.append(column.node);
  }

  function columnAt(position) {
    while (columns.length <= position) addColumn();
    return columns[position];
  }

  function paint(cell, isFed, mark) {
    if (cell.isFed === isFed && cell.mark === mark) return;
    Object.assign(cell, { isFed, mark });
    cell.node.className = `${cell.base}${isFed ? ' fed' : ''}${mark ? ` ${mark}` : ''}`;
  }

  function mark(column, name, state) {
    const row = rowOf(name); // may add a row, and with it the cell
    paint(column.cells[row], column.cells[row].isFed, state);
    return row;
  }

  function setWord(column, text, className) {
    column.word.textContent = text;
    column.word.className = `word ${className}`;
  }

  function forgetPending() {
    for (const [column, row] of pending) {
      if (column.cells[row].mark === 'drafted') paint(column.cells[row], column.cells[row].isFed, '');
      if (column.word.classList.contains('faint')) setWord(column, '', 'r');
    }
    pending = [];
  }

  function forgetBehind(position) {
    for (const column of columns.slice(position + 1)) {
      for (const cell of column.cells) paint(cell, false, '');
      setWord(column, '', 'r');
    }
  }

  function feed(name, [first, last]) {
    const row = rowOf(name);
    for (let position = Math.max(0, first); position <= Math.min(last, limit); position += 1) {
      const cell = columnAt(position).cells[row];
      paint(cell, true, cell.mark);
    }
  }

  function reveal(node) {
    const hidden = names.offsetWidth; // the names stand over the columns' beginning
    const start = hidden + node.offsetLeft;
    if (start - hidden < box.scrollLeft) box.scrollLeft = start - hidden;
    else if (start + node.offsetWidth > box.scrollLeft + box.clientWidth) box.scrollLeft = start + node.offsetWidth - box.clientWidth;
  }

  function moveCursor(position) {
    cursor = Math.max(0, Math.min(position, numSettled - 1));
    const { node } = columns[cursor];
    reveal(node);
    pointAt(node);
    $('spoken').textContent = `${cursor}: ${visible(shown.get(node).token)}, ${describe(shown.get(node))}`;
  }

  function onKey(event) {
    const next = {
      ArrowRight: cursor + 1, ArrowLeft: cursor < 0 ? numSettled - 1 : cursor - 1, Home: 0, End: numSettled - 1,
    }[event.key];
    if (next === undefined || numSettled === 0) return;
    event.preventDefault();
    moveCursor(next);
  }

  watchTokens(box);
  box.addEventListener('keydown', onKey);
  box.addEventListener('reveal', (event) => reveal(event.target));

  return {
    clear() {
      rows = [];
      columns = [];
      pending = [];
      numSettled = 0;
      cursor = -1;
      limit = Infinity;
      names.replaceChildren(make('div', '', 'token'));
      root.replaceChildren();
      for (const name of lanes.keys()) addRow(name);
      follow.reset();
    },
    start() {},
    settled(event) {
      const column = columnAt(event.position);
      for (const cell of column.cells) if (cell.mark === 'drafted') paint(cell, cell.isFed, '');
      if (event.proposer != null) mark(column, event.proposer, 'accepted');
      if (event.rejected != null) mark(column, event.rejected, 'replaced');
      setWord(column, visible(event.token), colourOf(event.proposer));
      showsToken(column.node, event);
      numSettled = event.position + 1;
      if (event.proposer == null) {
        limit = event.position;
        forgetBehind(event.position);
      }
      follow.tick();
    },
    round(event) {
      forgetPending();
      for (const [name, range] of Object.entries(event.fed)) feed(name, range);
      for (const draft of event.drafts) {
        const column = columnAt(draft.position);
        setWord(column, visible(draft.token), `${colourOf(draft.proposer)} faint`);
        pending.push([column, mark(column, draft.proposer, 'drafted')]);
      }
      limit = Infinity;
      follow.tick();
    },
    finish() {
      forgetPending();
      for (const column of columns.splice(numSettled)) column.node.remove();
    },
  };
}
