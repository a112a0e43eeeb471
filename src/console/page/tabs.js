// Tabs by the pattern of the ARIA guide: arrow keys move, and only the chosen one is in the order of the Tab key.

import { el } from './dom.js';

// `tabs` are [name, title, mount]; mount(panel) may return { update, unmount }.
export function tabs(all, chosen, onChoose) {
  const panel = el('div.tabpanel', { role: 'tabpanel', tabindex: '0' });
  let content = null;
  const buttons = all.map(([name, title], at) =>
    el('button', { role: 'tab', id: `tab-${name}`, onclick: () => choose(at), onkeydown: (event) => move(event, at) }, title),
  );

  function choose(at, isFirst = false) {
    buttons.forEach((button, other) => {
      button.setAttribute('aria-selected', String(other === at));
      button.tabIndex = other === at ? 0 : -1;
    });
    content?.unmount?.();
    panel.replaceChildren();
    panel.setAttribute('aria-labelledby', `tab-${all[at][0]}`);
    content = all[at][2](panel) ?? null;
    if (!isFirst) onChoose(all[at][0]);
  }

  function move(event, at) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = (at + step + all.length) % all.length;
    buttons[next].focus();
    choose(next);
  }

  const first = Math.max(0, all.findIndex(([name]) => name === chosen));
  const node = el('div.tabs', el('div.tablist', { role: 'tablist' }, buttons), panel);
  choose(first, true);
  return { node, update: (live) => content?.update?.(live), unmount: () => content?.unmount?.() };
}
