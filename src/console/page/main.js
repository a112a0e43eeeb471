// The page: chooses the view, and asks for the state of the platform each second.

import { api, leave } from './api.js';
import { attribute, duration, el, text, toggle } from './dom.js';
import * as calls from './calls.js';
import * as deploy from './deploy.js';
import * as func from './function.js';
import * as history from './history.js';
import * as logs from './logs.js';
import * as overview from './overview.js';
import * as sandbox from './sandbox.js';

const PERIOD_MS = 1000;

const views = { '': overview, calls, history, log: logs, sandbox, deploy, f: func };
const byId = (id) => document.getElementById(id);
const main = byId('main');

let view = null;
let minute;
let generation;

export const app = {
  // The last answer of /api/v1/live.
  live: null,
  // Rows of the registry by route, with their figures.
  functions: new Map(),
  fault: null,
  go: (hash) => (location.hash = hash),
  refresh,
  toast,
  confirm,
};

// ---- Views ------------------------------------------------------------------------------------------------------------

function show() {
  const [path, search] = location.hash.replace(/^#\/?/, '').split('?');
  const [name, ...rest] = path.split('/');
  view?.unmount?.();
  main.replaceChildren();
  const shown = views[name] ?? overview;
  view = shown.mount(main, app, rest.map(decodeURIComponent), new URLSearchParams(search ?? ''));
  for (const link of byId('nav').children) {
    const isHere = link.getAttribute('href').replace(/^#\/?/, '') === name;
    if (isHere) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  document.title = `${view.title ?? 'Overview'} · faas`;
  window.scrollTo(0, 0);
  if (app.live) view.update?.(app.live);
}

// ---- The state --------------------------------------------------------------------------------------------------------

async function refresh() {
  const answer = await api.functions();
  const before = app.functions;
  app.functions = new Map(
    answer.functions.map((row) => {
      const known = before.get(row.route);
      return [row.route, { ...row, key: row.route, figures: known?.figures ?? null }];
    }),
  );
}

async function tick() {
  if (document.hidden) return;
  try {
    const live = await api.live(minute);
    minute = live.minute;
    if (generation !== live.status.generation || live.status.generation === null) {
      await refresh();
      generation = live.status.generation;
    }
    for (const { route, fault } of live.status.registry?.first ?? []) {
      const row = app.functions.get(route);
      if (row) row.fault ??= fault;
    }
    for (const figures of live.functions) {
      const row = app.functions.get(figures.route);
      if (row) row.figures = { ...row.figures, ...figures };
    }
    if (live.total.minutes) app.minutes = live.total.minutes;
    app.live = live;
    app.fault = null;
    view?.update?.(live);
  } catch (fault) {
    // A restarted console answers again after a second, but does not know which minutes it had sent.
    minute = undefined;
    app.fault = fault.status ? fault.message : 'The console does not answer. Calls go on without it.';
  }
  head();
}

function head() {
  const status = app.live?.status;
  const isReady = status?.status === 'ready' && !app.fault;
  const isLate = status && status.age_ms > 3000;
  toggle(byId('dot'), 'ok', isReady && !isLate);
  toggle(byId('dot'), 'bad', app.fault || (status && !isReady));
  text(byId('state'), app.fault ? 'no connection' : status?.status ?? 'connecting');
  if (status) {
    const parts = [`generation ${status.generation ?? '–'}`, `up ${duration(status.uptime_s)}`, `v${status.version}`];
    text(byId('facts'), parts.join(' · '));
  }
  const banner = byId('banner');
  const registryFault = status?.registry?.fault;
  const trouble = app.fault ?? (registryFault ? `The registry cannot be used: ${registryFault}. The last good version is in service.` : null) ?? (status && !isReady ? status.status : isLate ? 'The gateway has not told of itself for a while.' : '');
  text(banner, trouble);
  banner.hidden = !trouble;
}

async function run() {
  await tick();
  show();
  window.addEventListener('hashchange', show);
  document.addEventListener('visibilitychange', () => tick());
  // One at a time: slow answers must not pile up.
  const next = () => setTimeout(() => tick().finally(next), PERIOD_MS);
  next();
}

// ---- Words with the operator -------------------------------------------------------------------------------------------

function toast(message, isBad = false) {
  const node = el(isBad ? 'div.toast.bad' : 'div.toast', message);
  byId('toasts').append(node);
  setTimeout(() => node.remove(), isBad ? 10000 : 5000);
}

// Resolves to true if the operator agrees.
function confirm(title, detail, action) {
  const dialog = byId('question');
  return new Promise((resolve) => {
    const close = (answer) => {
      dialog.close();
      resolve(answer);
    };
    const go = el('button.danger', { onclick: () => close(true) }, action);
    const stay = el('button', { onclick: () => close(false) }, 'Cancel');
    dialog.replaceChildren(el('h2', title), el('p', detail), el('div.row', stay, go));
    dialog.oncancel = () => resolve(false);
    dialog.showModal();
    stay.focus();
  });
}

byId('log-out').addEventListener('click', async () => {
  await fetch('/logout', { method: 'POST' }).catch(() => null);
  localStorage.removeItem('faas-key');
  leave();
});

// "/" goes to the filter, as in other consoles.
document.addEventListener('keydown', (event) => {
  const isTyping = ['INPUT', 'TEXTAREA', 'SELECT'].includes(document.activeElement?.tagName);
  if (event.key === '/' && !isTyping && !event.ctrlKey && !event.metaKey) {
    const filter = main.querySelector('input[type=search]');
    if (filter) {
      event.preventDefault();
      filter.focus();
    }
  }
});

attribute(main, 'aria-busy', 'false');
run();
