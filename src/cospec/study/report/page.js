"use strict";
// Costs by the reader's prices, and the raw data as a file. Everything that is read here stands in the page.
const study = JSON.parse(document.getElementById("results").textContent);
const texts = JSON.parse(document.getElementById("texts").textContent);
const form = document.getElementById("prices");
const fields = [...form.querySelectorAll("[data-price]")];
const { ours } = study.settings, planned = study.verdict.concurrency;

const hooked = (name) => [...document.querySelectorAll("[data-hook]")].filter((each) => each.dataset.hook === name);
const put = (name, text) => hooked(name).forEach((each) => { each.textContent = text; });
const fill = (key, values) => texts[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);

function amount(value) {
  const size = Math.abs(value);
  const decimals = size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : size >= 0.01 || size === 0 ? 3 : 5;
  return value.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}

const money = (value) => (value === null ? "–" : `${amount(value)} ${form.dataset.currency}`);

// Of all fields of a name together; null where one is empty or no price.
function price(name) {
  const own = fields.filter((each) => each.dataset.price === name);
  const values = own.map((each) => (each.value !== "" && each.valueAsNumber >= 0 ? each.valueAsNumber : null));
  return values.includes(null) ? null : values.reduce((sum, value, i) => sum + value * own[i].dataset.count, 0);
}

function costs(row) {
  const perHour = price("per_hour"), perKwh = price("per_kwh");
  const machines = perHour === null ? null : perHour / (row.tokens_per_second * 3600) * 1e6;
  const energy = row.kwh === null || perKwh === null ? null : row.kwh * perKwh;
  // What is paid for and was not measured is not nothing.
  const isKnown = machines !== null && (perKwh === null || energy !== null);
  return { machines, energy, total: isKnown ? machines + (energy ?? 0) : null };
}

function recompute() {
  const totals = new Map();
  for (const row of study.cost.rows) {
    const key = `${row.method}@${row.concurrency}`, found = costs(row);
    totals.set(key, found.total);
    for (const [name, value] of Object.entries(found)) put(`${name}:${key}`, money(value));
  }
  const bars = [...document.querySelectorAll("[data-bar]")];
  const most = Math.max(...bars.map((bar) => totals.get(bar.dataset.bar) ?? 0)) || 1;
  for (const bar of bars) bar.style.width = `${100 * (totals.get(bar.dataset.bar) ?? 0) / most}%`;
  compare(totals.get(`${ours}@${planned}`) ?? null, totals.get(`plain@${planned}`) ?? null);
  put("edited", fields.some((each) => each.value !== each.defaultValue) ? texts["page.edited"] : "");
}

// Ours and plain's, a million tokens each.
function compare(own, plain) {
  put("tile", money(own));
  const volume = price("volume");
  if (own === null || plain === null) {
    const isUnmetered = price("per_hour") !== null && price("per_kwh") !== null;
    put("tile-says", texts[isUnmetered ? "unmetered" : "cost.no saving yet"]);
    put("saving", texts[isUnmetered ? "unmetered saving" : "cost.no saving yet"]);
    return;
  }
  const share = `${Math.round(Math.abs(1 - own / plain) * 100)}%`;
  const change = plain ? fill(own <= plain ? "cost.less" : "cost.more", { share }) : "–";
  put("tile-says", fill("tile.cost says", { plain: money(plain), change }));
  const saved = volume === null ? null : (plain - own) * volume / 1e6;
  const values = { amount: money(Math.abs(saved)), planned: texts.planned };
  put("saving", saved === null ? texts["cost.no saving yet"] : fill(saved >= 0 ? "cost.saving" : "cost.loss", values));
}

form.addEventListener("input", recompute);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(recompute));

const file = new Blob([JSON.stringify(study, null, 1)], { type: "application/json" });
document.getElementById("download").href = URL.createObjectURL(file);

// On paper all folds are open; behind it those that were.
const folds = [...document.querySelectorAll("details")];
let opened = [];
window.addEventListener("beforeprint", () => {
  opened = folds.filter((each) => each.open);
  folds.forEach((each) => { each.open = true; });
});
window.addEventListener("afterprint", () => folds.forEach((each) => { each.open = opened.includes(each); }));
