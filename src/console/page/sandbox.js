// Shows the sandbox's promises on this machine: the gateway tried each of them at its start.

import { el } from './dom.js';

const KINDS = { kernel: 'ok', watched: 'warn' };

export function mount(root) {
  const panel = el('section.panel', el('h1', 'Sandbox'));
  const content = el('div.sandbox');
  panel.append(content);
  root.append(panel);
  let shown = '';
  return {
    title: 'Sandbox',
    update(live) {
      const now = JSON.stringify(live.status.sandbox);
      if (now === shown) return;
      shown = now;
      const { remarks = [], promises = [], user, landlock } = live.status.sandbox ?? {};
      const row = (one) => el('tr', el('td', el(`span.status.${KINDS[one.level] ?? 'bad'}`, one.level)), el('th', { scope: 'row' }, one.promise), el('td.soft', one.kept_by));
      content.replaceChildren(
        el('p.soft', `Functions run as ${user}; Landlock ${landlock || 'is missing'}. “kernel”: the kernel refuses what would break a promise; “watched”: a worker looks, and kills.`),
        el('div.scroll', el('table.promises', el('thead', el('tr', ['Kept by', 'Promise', 'How'].map((title) => el('th', { scope: 'col' }, title)))), el('tbody', promises.map(row)))),
        el('h2', 'Remarks'),
        remarks.length ? el('ul.remarks', remarks.map((remark) => el('li', remark))) : el('p.soft', 'None.'),
      );
    },
  };
}
