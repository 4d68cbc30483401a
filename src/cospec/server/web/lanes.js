'use strict';
/* Lanes: the members, then the drafters. Each has a colour and a line style, so that lanes differ without colour too. */

const NUM_COLOURS = 8;

let lanes = new Map(); // name -> {name, role, index}

function resetLanes(cospec) {
  lanes = new Map();
  for (const name of cospec?.members ?? []) addLane(name, 'member');
  for (const name of cospec?.drafters ?? []) addLane(name, 'drafter');
  renderLegend();
}

function addLane(name, role) {
  lanes.set(name, { name, role, index: lanes.size });
}

function laneOf(name) {
  if (!lanes.has(name)) {
    addLane(name, 'drafter');
    renderLegend();
  }
  return lanes.get(name);
}

function colourOf(name) {
  return name == null ? 'r' : `p${laneOf(name).index % NUM_COLOURS}`;
}

// The lane's name with its colour in front.
function namePlate(name) {
  const plate = make('span', 'plate');
  plate.title = name;
  plate.append(make('span', `chip ${colourOf(name)}`), make('bdi', '', name));
  return plate;
}

function renderLegend() {
  const items = [...lanes.values()].map(({ name, role }) => {
    const item = make('li');
    item.append(namePlate(name));
    if (role === 'drafter' && name !== role) item.append(make('span', 'role', role));
    return item;
  });
  const drawn = make('li');
  const from = make('span', '', 'drawn from ');
  from.append(make('i', '', 'r'));
  drawn.append(make('span', 'chip r'), from);
  const replaced = make('li');
  replaced.append(make('span', 'replaced-mark', '▾'), 'replaced a draft');
  $('lane-legend').replaceChildren(...items, drawn, replaced);
}
