// Elements and texts. All data from functions and clients is hostile: it becomes text, never markup.

const SVG = 'http://www.w3.org/2000/svg';

// el('div.panel', { title: 'x', onclick: f }, child, 'text')
export function el(what, ...rest) {
  const [tag, ...classes] = what.split('.');
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(' ');
  return fill(node, rest);
}

export function svg(tag, ...rest) {
  return fill(document.createElementNS(SVG, tag), rest);
}

function fill(node, rest) {
  for (const part of rest.flat()) {
    if (part === null || part === undefined || part === false) continue;
    if (part instanceof Node) node.append(part);
    else if (typeof part === 'object') {
      for (const [name, value] of Object.entries(part)) {
        if (value === null || value === undefined || value === false) continue;
        if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
        else if (name === 'value') node.value = value;
        else node.setAttribute(name, value === true ? '' : value);
      }
    } else node.append(String(part));
  }
  return node;
}

// Writes only differences: a page that updates each second must not lay itself out again each time.
export function text(node, value) {
  const wanted = value === null || value === undefined ? '' : String(value);
  if (node.textContent !== wanted) node.textContent = wanted;
}

export function attribute(node, name, value) {
  const wanted = String(value);
  if (node.getAttribute(name) !== wanted) node.setAttribute(name, wanted);
}

export function toggle(node, name, is) {
  if (node.classList.contains(name) !== Boolean(is)) node.classList.toggle(name, Boolean(is));
}

// Makes the children of `parent` match `items`, in order. A node stays with its key.
export function sync(parent, items, keyOf, create, update) {
  const known = parent.nodesByKey ??= new Map();
  const wanted = new Set(items.map(keyOf));
  for (const [key, node] of known) {
    if (!wanted.has(key)) {
      node.remove();
      known.delete(key);
    }
  }
  let place = parent.firstChild;
  for (const item of items) {
    const key = keyOf(item);
    let node = known.get(key);
    if (!node) {
      node = create(item);
      known.set(key, node);
    }
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
    update(node, item);
  }
}

// ---- Figures ----------------------------------------------------------------------------------------------------------

export function number(value, digits = 0) {
  if (value === null || value === undefined) return '–';
  if (value >= 10000) return `${(value / 1000).toFixed(value >= 100000 ? 0 : 1)}k`;
  return value.toFixed(value >= 100 ? 0 : digits);
}

export function rate(value) {
  return value === 0 ? '0' : number(value, value < 10 ? 1 : 0);
}

export function ms(value) {
  if (value === null || value === undefined) return '–';
  if (value >= 10000) return `${(value / 1000).toFixed(1)} s`;
  return `${value.toFixed(value < 10 ? 1 : 0)} ms`;
}

export function bytes(value) {
  if (value === null || value === undefined) return '–';
  if (value < 1000) return `${value} B`;
  if (value < 1e6) return `${(value / 1e3).toFixed(1)} kB`;
  return `${(value / 1e6).toFixed(1)} MB`;
}

export function duration(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} days`;
}

export function time(seconds, withDate = true) {
  if (!seconds) return '–';
  const date = new Date(seconds * 1000);
  const two = (value) => String(value).padStart(2, '0');
  const clock = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return withDate ? `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clock}` : clock;
}

// A route as a coloured method and its path.
export function routeText(route) {
  const colon = route.indexOf(':');
  const method = colon < 0 ? '' : route.slice(0, colon);
  const kind = ['GET', 'POST', 'PUT', 'DELETE', 'PATCH'].includes(method) ? method.toLowerCase() : 'any';
  return el('span.route', el(`b.method.${kind}`, method === '*' ? 'ANY' : method), el('span.path', route.slice(colon + 1)));
}

export function statusText(status) {
  const kind = status >= 500 ? 'bad' : status >= 400 ? 'warn' : 'ok';
  return el(`span.status.${kind}`, status);
}
