// A table with a filter, an order and a maximum length, which writes only cells whose text has changed.

import { el, sync, text } from './dom.js';

const ROWS_SHOWN = 100;

// columns: { name, title, sort(item), cell() → node, show(node, item), class }; rowOf(item) → { key, href }
export function table({ columns, empty, href, filterText, filterLabel, sortBy = 0, descending = false }) {
  let items = [];
  let shownMax = ROWS_SHOWN;
  let order = { at: sortBy, descending };
  const filter = el('input', { type: 'search', placeholder: filterLabel, 'aria-label': filterLabel, autocomplete: 'off', spellcheck: 'false' });
  const count = el('span.soft');
  const heads = columns.map((column, at) => {
    if (!column.sort) return el('th', { scope: 'col', class: column.class }, column.title);
    const button = el('button', { onclick: () => sortOn(at) }, column.title);
    return el('th', { scope: 'col', class: column.class }, button);
  });
  const body = el('tbody');
  const more = el('button.quiet', { onclick: () => ((shownMax += 1000), show()) });
  const nothing = el('p.empty', empty);
  const node = el(
    'div.table',
    el('div.tools', filter, count),
    el('div.scroll', el('table', el('thead', el('tr', heads)), body)),
    nothing,
    more,
  );
  filter.addEventListener('input', () => ((shownMax = ROWS_SHOWN), show()));

  function sortOn(at) {
    order = { at, descending: order.at === at ? !order.descending : columns[at].descends ?? false };
    show();
  }

  function create(item) {
    const cells = columns.map((column) => {
      const content = column.cell ? column.cell(item) : el('span');
      return el('td', { class: column.class, 'data-title': column.title }, content);
    });
    const row = el('tr', cells);
    row.contents = cells.map((cell) => cell.firstChild);
    if (href) {
      row.addEventListener('click', (event) => {
        if (!event.target.closest('a, button')) location.hash = href(item);
      });
      row.classList.add('link');
    }
    return row;
  }

  function show() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = items.filter((item) => words.every((word) => filterText(item).includes(word)));
    const by = columns[order.at].sort;
    if (by) {
      const sign = order.descending ? -1 : 1;
      matches.sort((one, other) => {
        const [a, b] = [by(one), by(other)];
        return sign * (a < b ? -1 : a > b ? 1 : 0) || (one.key < other.key ? -1 : 1);
      });
    }
    heads.forEach((head, at) => {
      if (!columns[at].sort) return;
      const direction = order.at !== at ? 'none' : order.descending ? 'descending' : 'ascending';
      if (head.getAttribute('aria-sort') !== direction) head.setAttribute('aria-sort', direction);
    });
    const shown = matches.slice(0, shownMax);
    sync(body, shown, (item) => item.key, create, (row, item) => {
      columns.forEach((column, at) => column.show(row.contents[at], item));
    });
    nothing.hidden = shown.length > 0;
    text(nothing, items.length === 0 ? empty : 'Nothing matches the filter.');
    more.hidden = shown.length === matches.length;
    text(more, `Show ${Math.min(1000, matches.length - shown.length)} more of ${matches.length}`);
    text(count, words.length ? `${matches.length} of ${items.length}` : `${items.length}`);
  }

  return {
    node,
    filter,
    show: (all) => {
      items = all;
      show();
    },
  };
}
