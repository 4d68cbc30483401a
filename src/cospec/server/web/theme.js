'use strict';
/* Light or dark: the system's choice until the user makes one. */

function isDark() {
  const { theme } = document.documentElement.dataset;
  return theme ? theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
}

function labelTheme() {
  const next = isDark() ? 'Light' : 'Dark';
  $('theme').textContent = next;
  $('theme').setAttribute('aria-label', `${next} theme`);
}

function toggleTheme() {
  const theme = isDark() ? 'light' : 'dark';
  document.documentElement.dataset.theme = theme;
  store.set('localStorage', 'theme', theme);
  labelTheme();
}

function initTheme() {
  const theme = store.get('localStorage', 'theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', labelTheme);
  $('theme').addEventListener('click', toggleTheme);
  labelTheme();
}
