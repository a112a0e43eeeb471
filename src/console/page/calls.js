// Calls from the ledger, with filters; each opens to its stderr.

import { api } from './api.js';
import { bytes, el, ms, routeText, statusText, text, time } from './dom.js';

const PAGE = 100;
const PERIOD_TICKS = 2;

export function mount(root, app, _, search) {
  const filters = { function: search.get('function') ?? '', status: search.get('status') ?? '', request: search.get('request') ?? '' };
  const panel = el('section.panel');
  root.append(panel);
  panel.append(el('h1', 'Calls'));
  const list = callList(panel, {}, filters);
  return { title: 'Calls', ...list };
}

// A list of calls of one route, or with a filter form.
export function callList(panel, fixed, filters = null) {
  const rows = el('tbody');
  const notice = el('p.empty', { hidden: true });
  const more = el('button.quiet', { hidden: true, onclick: () => load(true) }, 'Older calls');
  let calls = [];
  let ticks = 0;
  const asked = () => ({ ...fixed, ...(filters ?? {}), limit: PAGE });

  if (filters) {
    const input = (name, title, placeholder) => {
      const field = el('input', { type: 'search', value: filters[name], placeholder, spellcheck: 'false', autocomplete: 'off' });
      field.addEventListener('input', () => {
        filters[name] = field.value.trim();
        load();
      });
      return el('label', title, field);
    };
    const status = el('select', [['', 'any'], ['2xx', '2xx'], ['4xx', '4xx'], ['5xx', '5xx']].map(([value, title]) => el('option', { value }, title)));
    status.value = filters.status;
    status.addEventListener('change', () => {
      filters.status = status.value;
      load();
    });
    panel.append(el('form.filters', { onsubmit: (event) => event.preventDefault() }, input('function', 'Function', 'name or route'), el('label', 'Status', status), input('request', 'Request id', 'X-Request-Id')));
  }
  const head = ['At', 'Function', 'Status', 'Queued', 'Run', 'CPU', 'Memory', 'Start', 'Worker', 'Out'];
  panel.append(el('div.scroll', el('table.calls', el('thead', el('tr', head.map((title) => el('th', { scope: 'col' }, title)))), rows)), notice, more);

  async function load(isOlder = false) {
    const wanted = asked();
    if (isOlder) wanted.before = calls.at(-1)?.id;
    try {
      const answer = await api.calls(wanted);
      if (!answer.is_recorded) {
        say('Calls are not recorded: FAAS_LEDGER is empty.');
        return;
      }
      const isSame = !isOlder && answer.calls[0]?.id === calls[0]?.id && answer.calls.length === Math.min(calls.length, PAGE);
      if (isSame) return;
      calls = isOlder ? [...calls, ...answer.calls] : answer.calls;
      const open = new Map([...rows.children].filter((row) => row.details).map((row) => [row.callId, row]));
      const nodes = [];
      for (const call of calls) {
        const old = open.get(call.id);
        const row = old ?? createRow(call);
        nodes.push(row);
        if (row.details) nodes.push(row.details);
      }
      rows.replaceChildren(...nodes);
      more.hidden = answer.calls.length < PAGE;
      say(calls.length ? '' : 'No call yet.');
    } catch (error) {
      say(error.message);
    }
  }

  function say(what) {
    text(notice, what);
    notice.hidden = !what;
  }

  function createRow(call) {
    const cells = [
      el('button.quiet', { 'aria-expanded': 'false' }, time(call.at / 1000)),
      el('a', { href: `#/f/${encodeURIComponent(call.route)}` }, routeText(call.route)),
      statusText(call.status),
      ms(call.ms_queued),
      ms(call.ms_run),
      ms(call.cpu_ms),
      bytes(call.memory),
      call.start ?? '–',
      call.worker ?? '–',
      bytes(call.bytes_out),
    ];
    const titles = head;
    const row = el('tr.link', cells.map((cell, at) => el('td', { 'data-title': titles[at] }, cell)));
    row.callId = call.id;
    row.addEventListener('click', (event) => {
      if (event.target.closest('a')) return;
      toggleDetails(row, call);
    });
    return row;
  }

  async function toggleDetails(row, call) {
    const button = row.querySelector('button');
    if (row.details) {
      row.details.remove();
      row.details = null;
      button.setAttribute('aria-expanded', 'false');
      return;
    }
    button.setAttribute('aria-expanded', 'true');
    const cell = el('td', { colspan: String(head.length) });
    row.details = el('tr.details', cell);
    row.after(row.details);
    try {
      const whole = await api.callOf(call.id);
      const facts = [['request', whole.request_id], ['function', whole.function], ['client', whole.client], ['generation', whole.generation], ['bytes in', whole.bytes_in], ['measured by', whole.measured]];
      cell.append(
        el('dl.facts', facts.filter(([, value]) => value !== null && value !== '').flatMap(([title, value]) => [el('dt', title), el('dd', value)])),
        whole.stderr ? el('pre.stderr', { tabindex: '0' }, whole.stderr) : el('p.soft', whole.status >= 400 ? 'It wrote nothing to stderr.' : 'The ledger keeps stderr of failed calls.'),
      );
    } catch (error) {
      cell.append(el('p.fault', error.message));
    }
  }

  load();
  return {
    update() {
      // A list that the user has scrolled further stays where it is.
      ticks += 1;
      if (ticks % PERIOD_TICKS === 0 && calls.length <= PAGE) load();
    },
  };
}
