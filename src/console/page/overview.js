// The overview: the load, the workers and the reasons for their choice, and all functions.

import { bars } from './charts.js';
import { el, ms, number, rate, routeText, sync, text, time, toggle } from './dom.js';
import { table } from './table.js';

export function mount(root, app) {
  const figures = {};
  const figure = (name, title, unit) => {
    figures[name] = el('strong', '–');
    figures[`${name}Unit`] = el('small', unit);
    return el('div.figure', el('span.soft', title), el('span', figures[name], figures[`${name}Unit`]));
  };
  const seconds = bars(60, 'Calls in each of the last 60 seconds');
  const minutes = bars(60, 'Calls in each of the last 60 minutes');
  const peak = [el('span.soft'), el('span.soft')];
  const workers = el('div.workers');
  const choices = el('ol.choices');
  const list = functionTable(app);
  root.append(
    el(
      'section.panel.now',
      el('div.figures', figure('rate', 'calls', '/s'), figure('errors', 'errors', '/s'), figure('flight', 'in flight'), figure('waiting', 'waiting'), figure('slots', 'free slots', ' ')),
      el('div.chart', el('div.legend', el('span', 'last minute'), peak[0]), seconds),
      el('div.chart', el('div.legend', el('span', 'last hour'), peak[1]), minutes),
    ),
    el('section', el('h2', 'Workers'), workers),
    el('details.panel.why', el('summary', 'Why the last calls went where'), choices),
    el('section.panel', el('div.heading', el('h2', 'Functions'), el('a.button.primary', { href: '#/deploy' }, 'Deploy')), list.node),
  );
  return {
    title: 'Overview',
    update(live) {
      const { status, total } = live;
      const all = status.workers ?? [];
      const inFlight = all.reduce((sum, worker) => sum + worker.in_flight, 0);
      const slots = all.reduce((sum, worker) => sum + worker.slots, 0);
      text(figures.rate, rate(total.rate[0]));
      text(figures.errors, rate(total.rate[1]));
      toggle(figures.errors, 'bad', total.rate[1] > 0);
      text(figures.flight, inFlight);
      text(figures.waiting, status.waiting);
      toggle(figures.waiting, 'warn', status.waiting > 0);
      text(figures.slots, slots - inFlight);
      text(figures.slotsUnit, `of ${slots}`);
      seconds.show(total.seconds);
      text(peak[0], `top ${number(seconds.top)}/s`);
      if (app.minutes) minutes.show(app.minutes);
      text(peak[1], `top ${number(minutes.top ?? 0)}/min`);
      sync(workers, all, (worker) => worker.id, createWorker, updateWorker);
      toggle(workers, 'many', all.length > 8);
      const newest = [...live.choices].reverse();
      sync(choices, newest, (choice) => `${choice.at}-${choice.worker}`, createChoice, () => {});
      list.show([...app.functions.values()]);
    },
  };
}

// ---- Workers ----------------------------------------------------------------------------------------------------------

function createWorker(worker) {
  const meter = (name, title) => {
    const fill = el('i');
    const value = el('b');
    return { name, fill, value, node: el('div.meter', el('span', title), el('div.track', fill), value) };
  };
  const meters = [meter('cpu', 'CPU'), meter('mem', 'mem'), meter('io', 'I/O')];
  const score = el('strong');
  const slots = el('div.slots');
  const pid = el('small.soft');
  const node = el(
    'article.worker.panel',
    el('header', el('h3', `worker ${worker.id}`), pid, el('span.score', el('small.soft', 'score '), score)),
    slots,
    meters.map((one) => one.node),
  );
  return Object.assign(node, { parts: { meters, score, slots, pid } });
}

function updateWorker(node, worker) {
  const { meters, score, slots, pid } = node.parts;
  text(pid, `pid ${worker.pid}`);
  text(score, number(worker.score, 1));
  toggle(node, 'stale', !worker.fresh);
  for (const { name, fill, value } of meters) {
    const percent = Math.min(100, worker[name]);
    const width = `${percent.toFixed(1)}%`;
    if (fill.style.width !== width) fill.style.width = width;
    toggle(fill, 'high', percent > 80);
    text(value, number(worker[name], worker[name] < 10 ? 1 : 0));
  }
  const shown = Math.min(worker.slots, 64);
  while (slots.children.length > shown) slots.lastChild.remove();
  while (slots.children.length < shown) slots.append(el('i'));
  const busy = Math.ceil((worker.in_flight * shown) / Math.max(1, worker.slots));
  [...slots.children].forEach((slot, at) => toggle(slot, 'busy', at < busy));
  const label = `${worker.in_flight} of ${worker.slots} slots in use`;
  if (slots.title !== label) slots.title = label;
}

function createChoice(choice) {
  const scores = Object.entries(choice.scores).slice(0, 8);
  return el(
    'li',
    el('time.soft', time(choice.at, false)),
    el('b', `worker ${choice.worker}`),
    el('span', choice.why),
    el('span.scores', scores.map(([id, score]) => el(Number(id) === choice.worker ? 'span.chosen' : 'span', `${id}: ${score.toFixed(1)}`))),
  );
}

// ---- Functions --------------------------------------------------------------------------------------------------------

function functionTable(app) {
  const of = (name) => (row) => row.figures?.[name] ?? -1;
  const cell = (show, value) => ({ show: (node, row) => text(node, show(row.figures)), sort: value, descends: true, class: 'num' });
  const list = table({
    filterLabel: 'Filter functions',
    filterText: (row) => (row.searched ??= `${row.route} ${row.descriptor.name ?? ''} ${row.descriptor.runtime ?? ''}`.toLowerCase()),
    href: (row) => `#/f/${encodeURIComponent(row.route)}`,
    empty: 'No function yet. Deploy one: a file or a folder is enough.',
    columns: [
      { title: 'Function', class: 'name', sort: (row) => row.route.slice(row.route.indexOf(':') + 1) + row.route, cell: nameCell, show: updateName },
      { title: 'Runtime', sort: (row) => String(row.descriptor.runtime), show: (node, row) => text(node, row.descriptor.runtime) },
      { title: 'Calls/s', ...cell((f) => (f ? rate(f.rate[0]) : '–'), (row) => row.figures?.rate[0] ?? -1) },
      {
        title: 'Errors/s',
        class: 'num',
        descends: true,
        sort: (row) => row.figures?.rate[1] ?? -1,
        show: (node, row) => {
          const errors = row.figures?.rate[1] ?? 0;
          text(node, row.figures ? rate(errors) : '–');
          toggle(node, 'bad', errors > 0);
        },
      },
      { title: 'p50', ...cell((f) => ms(f?.p50_ms), of('p50_ms')) },
      { title: 'p95', ...cell((f) => ms(f?.p95_ms), of('p95_ms')) },
      { title: 'CPU', ...cell((f) => (f ? `${number(f.cpu_percent, 1)} %` : '–'), of('cpu_percent')) },
      { title: 'Running', ...cell((f) => f?.in_flight ?? '–', of('in_flight')) },
      { title: 'Last hour', class: 'spark', cell: () => bars(60, 'Calls in each of the last 60 minutes'), show: (node, row) => row.figures?.minutes && node.shown !== row.figures.minutes && ((node.shown = row.figures.minutes), node.show(row.figures.minutes)) },
    ],
  });
  return list;
}

function nameCell(row) {
  const name = el('span.title');
  const fault = el('span.fault');
  const node = el('a.function', { href: `#/f/${encodeURIComponent(row.route)}` }, routeText(row.route), name, fault);
  return Object.assign(node, { parts: { name, fault } });
}

function updateName(node, row) {
  const name = row.descriptor.name;
  text(node.parts.name, name && name !== row.route ? name : '');
  text(node.parts.fault, row.fault ?? '');
}
