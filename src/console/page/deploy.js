// Deploys a file or a folder: drop it or choose it, name the route, see it go live.

import { upload } from './api.js';
import { bytes, el, text } from './dom.js';

const ENTRIES = ['index.php', 'main.wasm', 'run'];

export function mount(root, app, _, search) {
  let files = [];
  const known = el('datalist', { id: 'routes' }, [...app.functions.keys()].map((route) => el('option', { value: route })));
  const route = el('input', { id: 'route', required: true, list: 'routes', placeholder: 'POST:/api/convert', value: search.get('route') ?? '', spellcheck: 'false', autocomplete: 'off' });
  const runtime = el('select', { id: 'runtime' }, [['', 'as the file shows'], ['php', 'php'], ['wasm', 'wasm'], ['native', 'native']].map(([value, title]) => el('option', { value }, title)));
  const memory = el('input', { id: 'memory', type: 'number', min: '16', max: '65536', placeholder: 'as before, or 128' });
  const timeout = el('input', { id: 'timeout', type: 'number', min: '1', max: '3600', placeholder: 'as before, or 30' });
  const env = el('textarea', { id: 'env', rows: '2', spellcheck: 'false', placeholder: 'MODE=fast' });
  const oneFile = el('input.hidden', { type: 'file', id: 'one-file', onchange: () => take([...oneFile.files].map((file) => [file.name, file])) });
  const folder = el('input.hidden', { type: 'file', id: 'folder', webkitdirectory: true, onchange: () => take([...folder.files].map((file) => [file.webkitRelativePath, file])) });
  const chosen = el('div.chosen', { 'aria-live': 'polite' });
  const drop = el(
    'div.drop',
    el('p', el('strong', 'Drop a file or a folder here')),
    el('p.soft', `A folder starts with ${ENTRIES.slice(0, 2).join(', ')} or ${ENTRIES[2]}.`),
    el('div.row', el('button', { type: 'button', onclick: () => oneFile.click() }, 'Choose a file'), el('button', { type: 'button', onclick: () => folder.click() }, 'Choose a folder')),
    oneFile,
    folder,
    chosen,
  );
  const bar = el('progress', { max: '1', value: 0, hidden: true });
  const fault = el('p.fault', { role: 'alert' });
  const done = el('p.done', { role: 'status' });
  const go = el('button.primary', { type: 'submit', disabled: true }, 'Deploy');
  const form = el(
    'form.panel.deployform',
    el('h1', 'Deploy'),
    drop,
    el('label', 'Route', route, known),
    el('div.row', el('label', 'Runtime', runtime), el('label', 'Memory, MiB', memory), el('label', 'Timeout, s', timeout)),
    el('label', 'Environment, one NAME=VALUE a line', env),
    bar,
    fault,
    done,
    go,
  );
  root.append(form);

  function take(all) {
    files = all.filter(([name]) => !name.split('/').includes('.git'));
    const size = files.reduce((sum, [, file]) => sum + file.size, 0);
    text(fault, '');
    text(done, '');
    go.disabled = files.length === 0;
    const names = files.slice(0, 6).map(([name]) => el('code', name));
    chosen.replaceChildren(...(files.length ? [el('p', `${files.length} ${files.length === 1 ? 'file' : 'files'}, ${bytes(size)}`), el('p.names', names, files.length > 6 && '…')] : []));
  }

  for (const name of ['dragenter', 'dragover']) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.add('over');
    });
  }
  drop.addEventListener('dragleave', () => drop.classList.remove('over'));
  drop.addEventListener('drop', async (event) => {
    event.preventDefault();
    drop.classList.remove('over');
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
    const all = [];
    for (const entry of entries) await walk(entry, '', all);
    take(all);
  });

  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    text(fault, '');
    text(done, '');
    const fields = {};
    if (runtime.value) fields.runtime = runtime.value;
    if (memory.value) fields.memory = Number(memory.value);
    if (timeout.value) fields.timeout = Number(timeout.value);
    const pairs = env.value.split('\n').filter((line) => line.includes('='));
    const options = { fields, env: Object.fromEntries(pairs.map((line) => [line.slice(0, line.indexOf('=')).trim(), line.slice(line.indexOf('=') + 1)])) };
    go.disabled = true;
    bar.hidden = false;
    bar.value = 0;
    try {
      const answer = await upload(route.value.trim(), files, options, (share) => (bar.value = share));
      await app.refresh();
      const live = answer.live_ms == null ? 'It was there already: nothing has changed.' : `Generation ${answer.generation} is live after ${answer.live_ms} ms.`;
      done.replaceChildren(`${answer.route} runs ${answer.module}. ${live} `, el('a', { href: `#/f/${encodeURIComponent(answer.route)}` }, 'See it'));
    } catch (error) {
      text(fault, error.message);
    }
    bar.hidden = true;
    go.disabled = false;
  });

  return { title: 'Deploy' };
}

// Collects the files of a dropped folder.
async function walk(entry, folder, all) {
  const name = folder + entry.name;
  if (entry.isFile) {
    all.push([name, await new Promise((resolve, reject) => entry.file(resolve, reject))]);
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return;
    for (const one of some) await walk(one, `${name}/`, all);
  }
}
