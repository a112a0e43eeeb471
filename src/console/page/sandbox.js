// What the sandbox really holds on this machine.

import { el } from './dom.js';

export function mount(root) {
  const panel = el('section.panel', el('h1', 'Sandbox'));
  const content = el('div');
  panel.append(content);
  root.append(panel);
  let shown = '';
  return {
    title: 'Sandbox',
    update(live) {
      const { remarks = [], ...facts } = live.status.sandbox ?? {};
      const now = JSON.stringify(live.status.sandbox);
      if (now === shown) return;
      shown = now;
      const rows = Object.entries(facts).map(([name, value]) => el('tr', el('th', { scope: 'row' }, name.replaceAll('_', ' ')), el('td', value === null ? '–' : typeof value === 'object' ? JSON.stringify(value) : String(value))));
      content.replaceChildren(
        el('div.scroll', el('table.facts', el('tbody', rows))),
        el('h2', 'Remarks'),
        remarks.length ? el('ul.remarks', remarks.map((remark) => el('li', remark))) : el('p.soft', 'None: all that this platform can hold is held.'),
      );
    },
  };
}
