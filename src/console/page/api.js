// Requests to the console. The browser sends the cookie by itself; the key is the half of the session that only this
// page can read.

export class Fault extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

const key = () => localStorage.getItem('faas-key') ?? '';

export function leave() {
  location.replace('/login' + location.hash);
}

async function ask(method, path, body) {
  const headers = { 'X-Faas-Key': key() };
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  const answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  if (answer.status === 401) leave();
  const value = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Fault(answer.status, value.detail ?? `the console answered ${answer.status}`);
  return value;
}

const query = (parameters) => {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== '');
  return given.length ? '?' + new URLSearchParams(given) : '';
};

const of = (route) => `/api/v1/functions/${encodeURIComponent(route)}`;

export const api = {
  live: (minute) => ask('GET', '/api/v1/live' + query({ minute })),
  functions: () => ask('GET', '/api/v1/functions'),
  one: (route) => ask('GET', of(route)),
  code: (route, file) => ask('GET', of(route) + '/code' + query({ file })),
  describe: (route, descriptor) => ask('PUT', of(route) + '/descriptor', descriptor),
  remove: (route) => ask('DELETE', of(route)),
  rollBack: (route) => ask('POST', of(route) + '/rollback', {}),
  rollBackTo: (to) => ask('POST', '/api/v1/rollback', { to }),
  history: (parameters) => ask('GET', '/api/v1/history' + query(parameters)),
  diff: (from, to) => ask('GET', '/api/v1/diff' + query({ from, to })),
  call: (request) => ask('POST', '/api/v1/call', request),
  calls: (parameters) => ask('GET', '/api/v1/calls' + query(parameters)),
  callOf: (id) => ask('GET', `/api/v1/calls/${id}`),
  logs: (parameters) => ask('GET', '/api/v1/logs' + query(parameters)),
};

// Uploads files, a list of [name, File], and reports its progress.
export function upload(route, files, options, onProgress) {
  const form = new FormData();
  form.append('options', JSON.stringify(options));
  for (const [name, file] of files) form.append('file', file, name);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open('PUT', of(route));
    request.setRequestHeader('X-Faas-Key', key());
    request.upload.addEventListener('progress', (event) => {
      if (event.lengthComputable) onProgress(event.loaded / event.total);
    });
    request.addEventListener('error', () => reject(new Fault(0, 'the connection broke off')));
    request.addEventListener('load', () => {
      let value = {};
      try {
        value = JSON.parse(request.responseText);
      } catch {
        // The status says enough.
      }
      if (request.status === 401) leave();
      if (request.status === 200) resolve(value);
      else reject(new Fault(request.status, value.detail ?? `the console answered ${request.status}`));
    });
    request.send(form);
  });
}
