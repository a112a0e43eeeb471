// One function: its figures, a form that calls it, its code, descriptor, history, calls and log.

import { api } from './api.js';
import { callList } from './calls.js';
import { bars } from './charts.js';
import { bytes, el, ms, number, rate, routeText, statusText, text, time, toggle } from './dom.js';
import { changeList } from './history.js';
import { logTail } from './logs.js';
import { tabs } from './tabs.js';

export function mount(root, app, [route, tab]) {
  const figures = {};
  const figure = (name, title) => {
    figures[name] = el('strong', '–');
    return el('div.figure', el('span.soft', title), figures[name]);
  };
  const hour = bars(60, 'Calls in each of the last 60 minutes');
  const fault = el('p.fault', { role: 'status' });
  const name = el('span.soft');
  const here = (which) => `#/f/${encodeURIComponent(route)}/${which}`;

  async function change(title, detail, action, work, done) {
    if (!(await app.confirm(title, detail, action))) return;
    try {
      const answer = await work();
      app.toast(answer.live_ms == null ? done : `${done}; live after ${answer.live_ms} ms`);
      await app.refresh();
      body.update(app.live);
      shown.reload();
    } catch (error) {
      app.toast(error.message, true);
    }
  }

  const shown = tabs(
    [
      ['try', 'Call it', (panel) => caller(panel, route)],
      ['code', 'Code', (panel) => code(panel, route, app)],
      ['descriptor', 'Descriptor', (panel) => descriptor(panel, route, app)],
      ['history', 'History', (panel) => changeList(panel, app, route)],
      ['calls', 'Calls', (panel) => callList(panel, { route })],
      ['log', 'Log', (panel) => logTail(panel, { route })],
    ],
    tab,
    (which) => window.history.replaceState(null, '', here(which)),
  );
  // Reloads the chosen tab, which a change has made old.
  shown.reload = () => shown.node.querySelector('[role=tab][aria-selected=true]')?.click();

  root.append(
    el(
      'section.panel.functionhead',
      el('div.heading', el('div', el('h1', routeText(route)), name), el('div.row',
        el('a.button.primary', { href: `#/deploy?route=${encodeURIComponent(route)}` }, 'Deploy a new version'),
        el('button', { onclick: () => change('Roll back?', `${route} and its code go back by one step. That is a change of its own, which another rollback does not undo, but history keeps all.`, 'Roll back', () => api.rollBack(route), 'Rolled back') }, 'Roll back'),
        el('button.danger', { onclick: () => change('Remove this function?', `${route} goes out of service, and its code where no other route runs it. A rollback brings both back.`, 'Remove', () => api.remove(route), 'Removed') }, 'Remove'),
      )),
      fault,
      el('div.figures', figure('rate', 'calls/s'), figure('errors', 'errors/s'), figure('p50', 'p50'), figure('p95', 'p95'), figure('cpu', 'CPU'), figure('memory', 'peak memory'), figure('flight', 'running'), figure('calls', 'calls since start')),
      el('div.chart', el('div.legend', el('span', 'last hour')), hour),
    ),
    el('section.panel', shown.node),
  );

  const body = {
    title: route,
    update(live) {
      const row = app.functions.get(route);
      text(fault, row ? row.fault : 'This route is not in the registry. Its history may bring it back.');
      toggle(fault, 'hidden', row && !row.fault);
      text(name, row ? [row.descriptor.name, row.descriptor.runtime, row.descriptor.module].filter(Boolean).join(' · ') : '');
      const f = row?.figures;
      if (f) {
        text(figures.rate, rate(f.rate[0]));
        text(figures.errors, rate(f.rate[1]));
        toggle(figures.errors, 'bad', f.rate[1] > 0);
        text(figures.p50, ms(f.p50_ms));
        text(figures.p95, ms(f.p95_ms));
        text(figures.cpu, `${number(f.cpu_percent, 1)} %`);
        text(figures.memory, f.memory_bytes_max ? bytes(f.memory_bytes_max) : '–');
        text(figures.flight, f.in_flight);
        text(figures.calls, `${number(f.calls)}${f.errors ? ` (${number(f.errors)} errors)` : ''}`);
        if (f.minutes) hour.show(f.minutes);
      }
      shown.update(live);
    },
    unmount: () => shown.unmount(),
  };
  return body;
}

// ---- Call it ----------------------------------------------------------------------------------------------------------

function caller(panel, route) {
  const colon = route.indexOf(':');
  const methods = route.slice(0, colon) === '*' ? ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'] : [route.slice(0, colon)];
  const method = el('select', { id: 'call-method' }, methods.map((one) => el('option', one)));
  const path = route.slice(colon + 1).replace(/^\/\/[^/]*/, '').replace(/\*$/, '').replace(/\{[^}]*\}/g, '1');
  const target = el('input', { id: 'call-target', value: path, spellcheck: 'false' });
  const headers = el('textarea', { id: 'call-headers', rows: '2', spellcheck: 'false', placeholder: 'Content-Type: application/json' });
  const body = el('textarea', { id: 'call-body', rows: '5', spellcheck: 'false', placeholder: methods[0] === 'GET' ? 'A GET has no body, usually' : '{"name": "Alice"}' });
  const go = el('button.primary', { type: 'submit' }, 'Call');
  const answer = el('div.answer', { 'aria-live': 'polite' });
  const form = el(
    'form.caller',
    el('div.row', el('label', 'Method', method), el('label.wide', 'Path and query', target), go),
    el('label', 'Headers, one a line', headers),
    el('label', 'Body', body),
  );
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    go.disabled = true;
    try {
      const lines = headers.value.split('\n').filter((line) => line.includes(':'));
      const pairs = lines.map((line) => [line.slice(0, line.indexOf(':')).trim(), line.slice(line.indexOf(':') + 1).trim()]);
      show(await api.call({ method: method.value, target: target.value, headers: Object.fromEntries(pairs), body: body.value }));
    } catch (error) {
      answer.replaceChildren(el('p.fault', error.message));
    }
    go.disabled = false;
  });
  function show(got) {
    const id = got.headers.find(([name]) => name.toLowerCase() === 'x-request-id')?.[1];
    answer.replaceChildren(
      el('div.row', statusText(got.status), el('span.soft', ms(got.ms)), id && el('a', { href: `#/calls?request=${encodeURIComponent(id)}` }, 'this call')),
      el('details', el('summary', `${got.headers.length} headers`), el('pre', got.headers.map(([name, value]) => `${name}: ${value}`).join('\n'))),
      el('pre.body', { tabindex: '0' }, pretty(got)),
    );
  }
  panel.append(form, answer);
}

function pretty(got) {
  const type = got.headers.find(([name]) => name.toLowerCase() === 'content-type')?.[1] ?? '';
  if (!got.is_text || !type.includes('json')) return got.body;
  try {
    return JSON.stringify(JSON.parse(got.body), null, 2);
  } catch {
    return got.body;
  }
}

// ---- Code -------------------------------------------------------------------------------------------------------------

function code(panel, route) {
  const files = el('ul.files');
  const shown = el('div.source');
  panel.append(el('div.code', files, shown));
  async function open(name) {
    try {
      const file = await api.code(route, name);
      const lines = file.text?.split('\n') ?? [];
      if (lines.at(-1) === '') lines.pop();
      shown.replaceChildren(
        el('p.soft', `${file.name} · ${bytes(file.bytes)}${file.is_cut ? ' · only the beginning is shown' : ''}`),
        file.text === null ? el('p.empty', 'This is no text.') : el('pre.numbered', { tabindex: '0' }, lines.map((line) => el('code', line || ' '))),
      );
      for (const item of files.children) toggle(item, 'here', item.dataset.name === file.name);
    } catch (error) {
      shown.replaceChildren(el('p.fault', error.message));
    }
  }
  api.one(route).then(
    (one) => {
      if (one.files.length === 0) {
        panel.replaceChildren(el('p.empty', `The code lies outside of the registry: ${one.descriptor.module}`));
        return;
      }
      files.replaceChildren(...one.files.map((file) => el('li', { 'data-name': file.name }, el('button.quiet', { onclick: () => open(file.name) }, file.name), el('small.soft', bytes(file.bytes)))));
      toggle(files, 'hidden', one.files.length === 1);
      open('');
    },
    (error) => panel.replaceChildren(el('p.fault', error.message)),
  );
}

// ---- Descriptor -------------------------------------------------------------------------------------------------------

function descriptor(panel, route, app) {
  const row = app.functions.get(route);
  const fault = el('p.fault', { role: 'alert' });
  const field = el('textarea.descriptor', { rows: '14', spellcheck: 'false', 'aria-label': 'Descriptor as JSON', value: row ? JSON.stringify(row.descriptor, null, 2) : '' });
  const save = el('button.primary', { type: 'submit' }, 'Put into service');
  const form = el('form', el('p.soft', row ? `last changed ${time(row.updated)}` : ''), field, fault, save);
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    text(fault, '');
    try {
      const answer = await api.describe(route, JSON.parse(field.value));
      app.toast(answer.live_ms == null ? 'Nothing has changed' : `In service after ${answer.live_ms} ms`);
      await app.refresh();
    } catch (error) {
      text(fault, error.message);
    }
  });
  panel.append(form);
}
