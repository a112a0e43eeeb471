// Charts as SVG: bars of calls with their errors on top of the axis, drawn by two paths, however many bars there are.

import { attribute, svg } from './dom.js';

// `count` bars in a box of 100 × 100 units that stretches to its place.
export function bars(count, label) {
  const calls = svg('path', { class: 'calls' });
  const errors = svg('path', { class: 'errors' });
  const node = svg(
    'svg',
    { viewBox: '0 0 100 100', preserveAspectRatio: 'none', role: 'img', 'aria-label': label, class: 'bars' },
    calls,
    errors,
  );
  const width = 100 / count;
  const gap = count > 40 ? width * 0.22 : width * 0.16;
  const bar = (at, height) => `M${(at * width + gap / 2).toFixed(2)} 100v-${height.toFixed(2)}h${(width - gap).toFixed(2)}v${height.toFixed(2)}z`;
  // `pairs` are calls and errors, the oldest first.
  node.show = (pairs) => {
    const top = Math.max(1, ...pairs.map((pair) => pair[0]));
    const height = (value) => (value === 0 ? 0 : Math.max(4, (value / top) * 96));
    const path = (which) => pairs.map((pair, at) => (pair[which] ? bar(at, height(pair[which])) : '')).join('');
    attribute(calls, 'd', path(0));
    attribute(errors, 'd', path(1));
    node.top = top;
  };
  return node;
}
