// The tail of the gateway's log, with new lines as they come.

import { api } from './api.js';
import { el, text } from './dom.js';

const LINES_KEPT = 1000;

export function mount(root) {
  const panel = el('section.panel', el('h1', 'Log'));
  root.append(panel);
  return { title: 'Log', ...logTail(panel, {}) };
}

export function logTail(panel, fixed) {
  const filter = el('input', { type: 'search', placeholder: 'Filter lines', 'aria-label': 'Filter lines', spellcheck: 'false', autocomplete: 'off' });
  const follow = el('input', { type: 'checkbox', checked: true });
  const notice = el('p.empty', { hidden: true });
  const log = el('div.log', { tabindex: '0', role: 'log', 'aria-label': 'Log lines' });
  panel.append(el('div.tools', filter, el('label.check', follow, 'Follow')), log, notice);
  filter.addEventListener('input', () => [...log.children].forEach(match));
  let place;
  let isAsking = false;

  function match(line) {
    line.hidden = !line.textContent.toLowerCase().includes(filter.value.toLowerCase());
  }

  async function load() {
    if (isAsking) return;
    isAsking = true;
    try {
      const answer = await api.logs({ ...fixed, after: place, limit: place ? 1000 : 200 });
      place = answer.place;
      const isAtEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 40;
      const nodes = answer.lines.map((line) => el(/error=|panicked|could not|status=5/.test(line) ? 'div.bad' : 'div', line));
      nodes.forEach(match);
      log.append(...nodes);
      while (log.children.length > LINES_KEPT) log.firstChild.remove();
      if (nodes.length && follow.checked && (isAtEnd || nodes.length === log.children.length)) log.scrollTop = log.scrollHeight;
      notice.hidden = log.children.length > 0;
      text(notice, 'No line yet.');
    } catch (error) {
      notice.hidden = false;
      text(notice, error.message);
    }
    isAsking = false;
  }

  load();
  return { update: () => follow.checked && load() };
}
