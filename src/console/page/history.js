// The registry's history: changes, their differences, and rollbacks.

import { api } from './api.js';
import { bytes, el, routeText, text, time } from './dom.js';

export function mount(root, app) {
  const panel = el('section.panel', el('h1', 'History'), el('p.soft', 'Each change of a route or of its code is a generation.'));
  root.append(panel);
  return { title: 'History', ...changeList(panel, app, null) };
}

// Changes of all routes, or of one; each shows its difference.
export function changeList(panel, app, route) {
  const list = el('ol.changes');
  const notice = el('p.empty');
  panel.append(list, notice);
  let generation;

  async function load() {
    try {
      const { changes } = await api.history({ route, limit: 200 });
      list.replaceChildren(...changes.map(create));
      text(notice, changes.length ? '' : 'No change yet.');
    } catch (error) {
      text(notice, error.message);
    }
  }

  function create(change) {
    const diff = el('div.diff', { hidden: true });
    const toggle = el('button.quiet', { 'aria-expanded': 'false', onclick: () => open() }, 'What changed');
    async function open() {
      diff.hidden = !diff.hidden;
      toggle.setAttribute('aria-expanded', String(!diff.hidden));
      if (diff.hidden || diff.children.length) return;
      try {
        const { differences } = await api.diff(change.generation - 1, change.generation);
        diff.append(...differences.flatMap((one) => [el('p.soft', `${one.change} ${one.kind} ${one.name}`), lines(one.details)]));
        if (!differences.length) diff.append(el('p.soft', 'Nothing differs.'));
      } catch (error) {
        diff.append(el('p.fault', error.message));
      }
    }
    const back = el('button', { onclick: () => rollBackTo(change.generation) }, 'Set all back to here');
    const what = change.kind === 'route' ? el('a', { href: `#/f/${encodeURIComponent(change.name)}` }, routeText(change.name)) : el('code', change.name);
    return el(
      'li',
      el('div.change', el('b.generation', change.generation), el('span', el(`span.tag.${change.change}`, change.change), ' ', el('span.soft', change.kind), ' ', what), el('span.soft', change.bytes === null ? '' : bytes(change.bytes)), el('time.soft', time(change.at)), el('span.row', toggle, !route && back)),
      diff,
    );
  }

  async function rollBackTo(to) {
    const detail = `All routes and all code become what they were in generation ${to}. That is a change of its own: it can be undone in the same way.`;
    if (!(await app.confirm(`Set all back to generation ${to}?`, detail, 'Set back'))) return;
    try {
      const answer = await api.rollBackTo(to);
      app.toast(`Generation ${answer.generation} is what ${to} was`);
      load();
    } catch (error) {
      app.toast(error.message, true);
    }
  }

  return {
    update(live) {
      if (live.status.generation === generation) return;
      generation = live.status.generation;
      load();
    },
  };
}

function lines(details) {
  const line = (one) => el(one.startsWith('  +') ? 'span.added' : one.startsWith('  -') ? 'span.removed' : 'span', `${one.slice(2)}\n`);
  return el('pre', { tabindex: '0' }, details.replace(/\n$/, '').split('\n').map(line));
}
